# Sourced by hack/*/build: builds programs of nested modules, each once. The caller is in the folder
# that holds the modules and has set $out, where the programs go.

mkdir -p "$out"

# One build at a time: `make test` and `make up` may be started together.
exec 9>"$out/.lock"
if command -v flock >/dev/null; then flock 9; fi

export CGO_ENABLED=0 GOFLAGS="-trimpath -mod=readonly" GOWORK=off

# Counts the packages that the compiler reports, so that a long build shows life:
# one line that is rewritten on a terminal, a line every 200 packages elsewhere.
progress() {
  local name=$1 total=$2 tty=0
  [ -t 2 ] && tty=1
  awk -v name="$name" -v total="$total" -v tty="$tty" '
    /^[a-z0-9.\/_-]+$/i {
      n++
      if (tty) printf "\r  %s: %d of at most %d packages compiled", name, n, total > "/dev/stderr"
      else if (n % 200 == 0) printf "  %s: %d of at most %d packages compiled\n", name, n, total > "/dev/stderr"
      next
    }
    { print > "/dev/stderr" }
    END { if (tty && n) printf "\n" > "/dev/stderr" }'
}

# gobuild NAME DIR PACKAGE LDFLAGS builds PACKAGE of the module in DIR as $out/NAME, unless its module
# files, the Go version and the flags are those of the last build.
gobuild() {
  local name=$1 dir=$2 pkg=$3 flags=$4 want start
  want=$({ cat "$dir/go.mod" "$dir/go.sum"; cat "$dir/$pkg"/*.go 2>/dev/null || true; go version; echo "$pkg $flags"; } | sha256sum | cut -d' ' -f1)
  if [ -x "$out/$name" ] && [ "$(cat "$out/.$name.sum" 2>/dev/null)" = "$want" ]; then
    return
  fi
  echo "building $name (once; minutes when Go's build cache is cold)" >&2
  start=$SECONDS
  (cd "$dir" && go mod download 2>&1 && total=$(go list -deps "$pkg" | wc -l) &&
    go build -v -ldflags "$flags" -o "$out/.$name.tmp" "$pkg" 2>&1 | progress "$name" "$total")
  mv "$out/.$name.tmp" "$out/$name"
  echo "$want" > "$out/.$name.sum"
  echo "built $name in $((SECONDS - start)) s" >&2
}

# required MODULE FILE prints the version of MODULE in a go.mod.
required() {
  awk -v module="$1" '$1 == module {print $2; exit} $1 == "require" && $2 == module {print $3; exit}' "$2"
}
