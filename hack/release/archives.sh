#!/usr/bin/env bash
# Makes what goreleaser makes of .goreleaser.yaml, with Go and tar alone and without publishing anything: an archive and a bill
# of materials for each platform, and their checksums.
#
#   [VERSION=v1.2.3] hack/release/archives.sh [DIR [GOOS/GOARCH...]]    default: bin/dist, and all of .goreleaser.yaml
set -euo pipefail
cd "$(dirname "$0")/../.."
hack/release/build cyclonedx-gomod licenses goreleaser
. hack/release/common.sh
out=${1:-bin/dist}
shift || true
[ $# -gt 0 ] || set -- $(bin/release/goreleaser .goreleaser.yaml)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf "$out"
mkdir -p "$out"
licences "$work/files"
for platform in "$@"; do
  name=routewarden_${VERSION#v}_${platform%/*}_${platform#*/}
  files=$work/$name
  cp -r "$work/files" "$files"
  cp README.md "$files"
  binary=routewarden
  [ "${platform%/*}" != windows ] || binary=routewarden.exe
  program "$platform" "$files/$binary"
  tar --create --gzip --file="$out/$name.tar.gz" --directory="$files" --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
    --mtime="@$SOURCE_DATE_EPOCH" .
  sbom "$files/$binary" "$out/$name.tar.gz.cdx.json"
done
(cd "$out" && sha256sum -- routewarden_* > checksums.txt)
echo "made $out of routewarden $VERSION: $*" >&2
