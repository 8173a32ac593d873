"""Throughput of the local server without and with a request log.

python tests/bench/request_log.py [--clients 8] [--seconds 4] [--rounds 5] [--models digits,mobilenet]

Two servers of the same model, one of which logs every request (images and responses), get the same requests in turns,
so that other work on the machine slows both alike. The value of a server is the median of the rounds. The throughput
depends on what else runs; CPU time per request does less, and is reported too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np
import serving_speed
from serving_speed import Server

CONFIG = """
model_config_list {{ config {{
  name: "model" base_path: "{base}" model_platform: "tensorflow"
  logging_config {{
    log_collector_config {{ filename_prefix: "{prefix}" }} sampling_config {{ sampling_rate: 1 }}
  }}
}} }}
"""


def measure(servers: dict[str, Server], protocol: str, clients: int, seconds: float, rounds: int) -> None:
    """Measures in turns and prints."""
    rates: dict[str, list[float]] = {title: [] for title in servers}
    costs: dict[str, list[float]] = {title: [] for title in servers}
    for number in range(rounds):
        for title in sorted(servers, reverse=bool(number % 2)):
            before = servers[title].cpu_s()
            times = servers[title].run(protocol, clients, seconds)
            rates[title].append(len(times) / seconds)
            costs[title].append((servers[title].cpu_s() - before) / len(times) * 1000)
    rate, cost = ({title: float(np.median(values[title])) for title in servers} for values in (rates, costs))
    for title in servers:
        print(f"{protocol:5} {title:8} {rate[title]:8.1f}/s  CPU {cost[title]:6.3f} ms per request")
    lost, more = 1 - rate["log"] / rate["no log"], cost["log"] / cost["no log"] - 1
    print(f"{protocol:5} cost: {lost:6.1%} of the throughput, {more:6.1%} more CPU", flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", default="digits,mobilenet")
    arguments = parser.parse_args()
    print(f"cores: {os.cpu_count()}, load before: {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        models = serving_speed.export_models(folder, "none", arguments.models.split(","))
        for name, (saved, image) in models.items():
            config = folder / f"{name}.config"
            config.write_text(CONFIG.format(base=saved.parent, prefix=folder / "log" / name))
            with contextlib.ExitStack() as running:  # whatever happens, no server is left behind
                servers = {"no log": serving_speed.ours(saved, image)}
                running.callback(servers["no log"].close)
                servers["log"] = serving_speed.ours(saved, image, f"--model_config_file={config}")
                running.callback(servers["log"].close)
                print(f"\n{name}: {len(image)} bytes per image, {arguments.clients} clients")
                for protocol in ("grpc", "rest"):
                    measure(servers, protocol, arguments.clients, arguments.seconds, arguments.rounds)
    print(f"load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
