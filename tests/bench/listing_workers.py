"""Measures the listing of spans, or of a large table, on Flink with one worker process, and with several.

    python tests/bench/listing_workers.py ENDPOINT [--spans 12] [--num 50000] [--workers 1 --workers 2]
    python tests/bench/listing_workers.py ENDPOINT --spans 0 --num 2000000

ENDPOINT is the address of a job server (`scripts/job_server.sh flink`). Each span has a manifest and so many images;
without spans, parts of one manifest take their place. The first one is listed by this process; workers list the others,
a task each. Their start is not counted: the listing takes from the first start of a task to the last end.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import apache_beam as beam
import listing_layouts
from division_workers import TimedExchange

from components.image_example_gen import listing_tasks, table_parts
from components.image_example_gen.beam_exchange import BeamExchange
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.listing_tasks import ListingPlace
from components.image_example_gen.options import DataOptions
from components.image_example_gen.shards import WorkFolder
from pipeline.execution import node_runner
from pipeline.execution.beam_options import BeamSection


def measure(location: str, endpoint: str, workers: int) -> tuple[float, float, float, str]:
    """Lists the spans: seconds in all, without starting workers, and of tasks; the fingerprint."""
    flink = {"job_endpoint": endpoint, "parallelism": workers, "worker_processes": workers}
    arguments = BeamSection.model_validate({"runner": "flink", "flink": flink}).arguments()
    # One worker is a process of its own too, as on another machine.
    arguments += ["--experiments=use_loopback_process_worker"]
    with tempfile.TemporaryDirectory() as shared, tempfile.TemporaryDirectory() as notes:
        folder = WorkFolder(shared)
        exchange = TimedExchange(BeamExchange(lambda: beam.Pipeline(argv=arguments), folder), Path(notes))
        start = time.monotonic()
        dataset = inspect_dataset(location, DataOptions(spans="all"), lambda: ListingPlace(exchange, folder))
        return time.monotonic() - start, exchange.seconds, exchange.busy, dataset.fingerprint


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("endpoint")
    parser.add_argument("--spans", type=int, default=12)
    parser.add_argument("--num", type=int, default=50_000)
    parser.add_argument("--workers", type=int, action="append")
    arguments = parser.parse_args()
    node_runner.let_workers_find_python()
    listing_tasks._MOST_IN_PROCESS = 0
    root = Path(tempfile.mkdtemp())
    try:
        if arguments.spans:
            num_parts, location = arguments.spans + 1, f"{root}/{{SPAN}}"
            for span in range(num_parts):
                listing_layouts.WRITERS["manifest"](root / str(span), arguments.num)
            total = f"{arguments.spans * arguments.num:,}"
        else:
            location = str(root / "table")
            listing_layouts.WRITERS["manifest"](root / "table", arguments.num)
            num_parts = len(table_parts.divide(f"{location}/manifest.csv"))
            total = f"{arguments.num * (num_parts - 1) // num_parts:,}"
        start = time.process_time()
        fingerprint = inspect_dataset(location, DataOptions(spans="all")).fingerprint
        print(f"{num_parts} parts, all but one in one process: ", end="")
        print(f"{(time.process_time() - start) * (num_parts - 1) / num_parts:.1f} s")
        print(
            f"| {total} images on the engine | elapsed, s | without start, s | tasks, s |\n|---|---|---|---|",
            flush=True,
        )
        for workers in arguments.workers or [1, 2]:
            seconds, listing, busy, same = measure(location, arguments.endpoint, workers)
            assert same == fingerprint
            print(f"| {workers} worker{'s'[: workers > 1]} | {seconds:.1f} | {listing:.1f} | {busy:.1f} |", flush=True)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
