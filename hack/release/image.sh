#!/usr/bin/env bash
# Makes the container image, as an OCI layout for linux/amd64 and linux/arm64, and its bills of materials, without a container
# engine and without a registry:
#
#   DIR/oci                              the layout (skopeo copy --all oci:DIR/oci docker://...)
#   DIR/routesteward-linux-ARCH.cdx.json  what is in it (CycloneDX)
#
#   [VERSION=v1.2.3] hack/release/image.sh [DIR]    default: bin/image
set -euo pipefail
cd "$(dirname "$0")/../.."
hack/release/build image cyclonedx-gomod
. hack/release/common.sh
out=${1:-bin/image}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf "$out"
mkdir -p "$out" "$work/files/licenses"
cp LICENSE "$work/files/licenses"
hack/release/licenses.sh save linux "$work/files/licenses/third_party"
layers=()
for arch in amd64 arm64; do
  program "linux/$arch" "$work/files/routesteward"
  sbom "$work/files/routesteward" "$out/routesteward-linux-$arch.cdx.json"
  archive "$work/files" > "$work/$arch.tar"
  layers+=("linux/$arch=$work/$arch.tar")
done
bin/release/image -version="$VERSION" -revision="$REVISION" -created="$SOURCE_DATE_EPOCH" "$out/oci" "${layers[@]}"
echo "made $out/oci of routesteward $VERSION" >&2
