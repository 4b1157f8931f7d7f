# Sourced by hack/release/{image,archives}.sh in the root of the checkout: what a release is made of.

set -a
. hack/flags
set +a
VERSION=${VERSION:-$(git describe --always --dirty 2>/dev/null || echo unknown)}
REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)
# The time of everything in a release, in seconds since 1970, so that the same commit makes the same bytes.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
# What archives are made for.
platforms=({linux,darwin,windows}/{amd64,arm64})

# program GOOS/GOARCH FILE builds routesteward.
program() {
  GOOS=${1%/*} GOARCH=${1#*/} go build -ldflags "-s -w -X main.version=$VERSION" -o "$2" .
}

# sbom PROGRAM FILE writes what is linked into a program (CycloneDX).
sbom() {
  bin/release/cyclonedx-gomod bin -json -std -noserial -notimestamp -version "$VERSION" -output "$2" "$1" 2>/dev/null
}

# archive DIR prints a folder as a tar archive in which everything belongs to root.
archive() {
  tar --create --directory="$1" --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime="@$SOURCE_DATE_EPOCH" .
}
