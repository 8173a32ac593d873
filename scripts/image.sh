#!/usr/bin/env bash
# Builds the container image with whichever tool is installed: scripts/image.sh [cpu|gpu] [further options of the tool].
set -euo pipefail
cd "$(dirname "$0")/.."

variant=${1:-cpu}
[ "$variant" = cpu ] || [ "$variant" = gpu ] || { echo "image: the variant is cpu or gpu, not '$variant'" >&2; exit 2; }
arguments=(--build-arg "VARIANT=$variant" -t "tfx-vision:$variant" "${@:2}" .)

for tool in docker podman; do
  if command -v "$tool" >/dev/null && "$tool" info >/dev/null 2>&1; then exec "$tool" build "${arguments[@]}"; fi
done
if command -v buildah >/dev/null; then exec buildah build "${arguments[@]}"; fi
echo "image: none of docker, podman and buildah is installed and running" >&2
exit 1
