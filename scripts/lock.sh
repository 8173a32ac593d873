#!/usr/bin/env bash
# Resolves the locks: requirements.lock for development, and one for each variant of the image with the same versions.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=$(command -v uv || echo .runtime/uv/bin/uv)
resolve() {
  "$uv" pip compile --quiet pyproject.toml --generate-hashes --python-version 3.11 \
    --python-platform x86_64-manylinux_2_40 --custom-compile-command "make lock" "$@"
}
resolve --extra dev -o requirements.lock
resolve -c requirements.lock -o requirements-cpu.lock
resolve -c requirements.lock --extra gpu -o requirements-gpu.lock
