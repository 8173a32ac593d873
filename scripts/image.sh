#!/usr/bin/env bash
# Builds the container image with whichever tool is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in docker podman; do
  if command -v "$tool" >/dev/null && "$tool" info >/dev/null 2>&1; then exec "$tool" build -t tfx-vision .; fi
done
if command -v buildah >/dev/null; then exec buildah build -t tfx-vision .; fi
echo "image: none of docker, podman and buildah is installed and running" >&2
exit 1
