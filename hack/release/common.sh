# Sourced by hack/release/{image,archives}.sh in the root of the checkout: what a release is made of.

export CGO_ENABLED=0 GOFLAGS="-trimpath -mod=readonly" GOWORK=off
VERSION=${VERSION:-$(git describe --always --dirty 2>/dev/null || echo unknown)}
REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)
# The time of everything in a release, in seconds since 1970, so that the same commit makes the same bytes.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

# program GOOS/GOARCH FILE builds routewarden.
program() {
  GOOS=${1%/*} GOARCH=${1#*/} go build -ldflags "-s -w -X main.version=$VERSION" -o "$2" .
}

# sbom PROGRAM FILE writes what is linked into a program (CycloneDX).
sbom() {
  bin/release/cyclonedx-gomod bin -json -std -noserial -notimestamp -version "$VERSION" -output "$2" "$1" 2>/dev/null
}

# licences DIR writes our licence and those of what is linked into the program.
licences() {
  mkdir -p "$1"
  cp LICENSE "$1/LICENSE"
  bin/release/licenses -texts > "$1/THIRD_PARTY_LICENSES"
}
