#!/usr/bin/env bash
# Runs the digits preset, serves the pushed model on loopback, sends the same request over gRPC and REST, and fails unless
# both responses have the same label and score.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly tfx_vision=.venv/bin/tfx-vision run_dir=runs/digits
readonly image=$run_dir/data/digits/3/0003.png

"$tfx_vision" run digits

server_log=$(mktemp)
"$tfx_vision" serve --model-name digits --model-base-path "$run_dir/serving/digits" --port 0 --rest-api-port 0 \
  2>"$server_log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -f "$server_log"' EXIT

for _ in $(seq 240); do
  grep -q '^Serving' "$server_log" && break
  kill -0 "$server" 2>/dev/null || break
  sleep 0.5
done
grep -q '^Serving' "$server_log" || { echo "demo: the server did not start:" >&2; cat "$server_log" >&2; exit 1; }
echo
cat "$server_log"
grpc=$(sed -n 's/^Serving.*gRPC \([^,]*\),.*/\1/p' "$server_log")
rest=$(sed -n 's/^Serving.*REST \([^ ]*\) .*/\1/p' "$server_log")

by_grpc=$("$tfx_vision" predict "$image" --grpc "$grpc" --top-k 3)
by_rest=$("$tfx_vision" predict "$image" --rest "$rest" --top-k 3)
printf 'gRPC  %s\nREST  %s\n' "$by_grpc" "$by_rest"
[ "$by_grpc" = "$by_rest" ] || { echo "demo: gRPC and REST disagree" >&2; exit 1; }
