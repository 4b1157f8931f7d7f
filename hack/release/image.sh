#!/usr/bin/env bash
# Makes the container image, as an OCI layout for linux/amd64 and linux/arm64, and its bills of materials, without a container
# engine and without a registry:
#
#   DIR/oci                              the layout (skopeo copy --all oci:DIR/oci docker://...)
#   DIR/routewarden-linux-ARCH.cdx.json  what is in it (CycloneDX)
#
#   [VERSION=v1.2.3] hack/release/image.sh [DIR]    default: bin/image
set -euo pipefail
cd "$(dirname "$0")/../.."
hack/release/build image cyclonedx-gomod licenses
. hack/release/common.sh
out=${1:-bin/image}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf "$out"
mkdir -p "$out"
licences "$work/licenses"
programs=()
for arch in amd64 arm64; do
  program "linux/$arch" "$work/routewarden-$arch"
  sbom "$work/routewarden-$arch" "$out/routewarden-linux-$arch.cdx.json"
  programs+=("-program=linux/$arch=$work/routewarden-$arch")
done
bin/release/image -output="$out/oci" -version="$VERSION" -revision="$REVISION" -created="$SOURCE_DATE_EPOCH" "${programs[@]}" \
  -file="/licenses/LICENSE=$work/licenses/LICENSE" -file="/licenses/THIRD_PARTY_LICENSES=$work/licenses/THIRD_PARTY_LICENSES"
echo "made $out/oci of routewarden $VERSION" >&2
