# Sourced by scripts that build programs. The caller sets $out, the folder for the programs.

set -a
. "$(dirname "${BASH_SOURCE[0]}")/flags"
set +a

# progress NAME TOTAL counts the packages that the compiler reports, so that a long build shows life: one line that is
# rewritten on a terminal, a line every 200 packages elsewhere.
progress() {
  local tty=0
  [ -t 2 ] && tty=1
  awk -v name="$1" -v total="$2" -v tty="$tty" '
    /^[A-Za-z0-9.\/_-]+$/ {
      n++
      if (tty) printf "\r  %s: %d of at most %d packages compiled", name, n, total > "/dev/stderr"
      else if (n % 200 == 0) printf "  %s: %d of at most %d packages compiled\n", name, n, total > "/dev/stderr"
      next
    }
    { print > "/dev/stderr" }
    END { if (tty && n) printf "\n" > "/dev/stderr" }'
}

# compile FILE DIR PACKAGE LDFLAGS builds PACKAGE of the module in DIR.
compile() {
  local file=$1 dir=$2 package=$3 flags=$4
  (cd "$dir" && go build -v -ldflags "$flags" -o "$file" "$package" 2>&1 | progress "$(basename "$file" .tmp)" "$(go list -deps "$package" | wc -l)")
}

# source_key DIR PACKAGE LDFLAGS changes when a build from source would give another program.
source_key() {
  { cat "$1/go.mod" "$1/go.sum"; cat "$1/$2"/*.go 2>/dev/null || true; go version; echo "$GOFLAGS $2 $3"; } | sha256sum | cut -d' ' -f1
}

# built NAME KEY is whether $out/NAME is the program that was built from source with that key.
built() { [ -x "$out/$1" ] && [ ! -L "$out/$1" ] && [ "$(cat "$out/.$1.key" 2>/dev/null)" = "$2" ]; }

# gobuild NAME DIR PACKAGE LDFLAGS builds $out/NAME, unless it was built from the same source before.
gobuild() {
  local name=$1 dir=$2 package=$3 flags=$4 key start=$SECONDS
  mkdir -p "$out"
  key=$(source_key "$dir" "$package" "$flags")
  if built "$name" "$key"; then return; fi
  echo "building $name from source (minutes, once)" >&2
  # Not by errexit, which does not hold where the caller tests the result.
  (cd "$dir" && go mod download) && compile "$out/$name.tmp" "$dir" "$package" "$flags" &&
    mv "$out/$name.tmp" "$out/$name" && echo "$key" > "$out/.$name.key" || return
  echo "built $name in $((SECONDS - start)) s" >&2
}

# required MODULE FILE prints the version of MODULE in a go.mod.
required() {
  awk -v module="$1" '$1 == module {print $2; exit} $1 == "require" && $2 == module {print $3; exit}' "$2"
}
