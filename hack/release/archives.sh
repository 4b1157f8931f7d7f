#!/usr/bin/env bash
# Makes an archive of the program for each platform, with its bill of materials, and their checksums.
#
#   [VERSION=v1.2.3] hack/release/archives.sh [DIR [GOOS/GOARCH...]]    default: bin/dist, and all platforms of common.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
hack/release/build cyclonedx-gomod
. hack/release/common.sh
out=${1:-bin/dist}
shift || true
[ $# -gt 0 ] || set -- "${platforms[@]}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf "$out"
mkdir -p "$out"
for platform in "$@"; do
  os=${platform%/*}
  [ -d "$work/$os" ] || hack/release/licenses.sh save "$os" "$work/$os"
  name=routesteward_${VERSION#v}_${os}_${platform#*/}
  files=$work/$name
  binary=$files/routesteward
  [ "$os" != windows ] || binary+=.exe
  mkdir "$files"
  cp LICENSE README.md "$files"
  cp -r "$work/$os" "$files/third_party"
  program "$platform" "$binary"
  sbom "$binary" "$out/$name.tar.gz.cdx.json"
  archive "$files" | gzip --no-name > "$out/$name.tar.gz"
done
(cd "$out" && sha256sum -- routesteward_* > checksums.txt)
echo "made $out of routesteward $VERSION: $*" >&2
