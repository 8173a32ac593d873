"""Measures the division on Flink with one worker process, and with several.

    python tests/bench/division_workers.py ENDPOINT [--num 1000000] [--workers 1 --workers 2]

ENDPOINT is the address of a job server (`scripts/job_server.sh flink`). The records are those of `division.py`. Workers
start again for each job, which is not counted: a step takes from the first start of a mapper to the last end of a
reducer.
"""

import argparse
import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import division as records

from components.image_example_gen import division
from components.image_example_gen.beam_exchange import BeamExchange
from components.image_example_gen.exchange import IMAGES_PER_PARTITION
from components.image_example_gen.options import DataOptions
from components.image_example_gen.shards import FILES_PER_SHARD, WorkFolder
from pipeline.execution import node_runner
from pipeline.execution.beam_options import BeamSection


class Timed:
    """A mapper or a reducer that notes when it begins and ends."""

    def __init__(self, work: Callable[..., Any], folder: str) -> None:
        """Wraps the function."""
        self._work = work
        self._folder = folder

    def __call__(self, *arguments: Any) -> Any:
        """Calls it; mappers are exhausted."""
        start, done = time.time(), self._work(*arguments)
        done = list(done) if len(arguments) == 1 else done
        path = Path(self._folder, uuid.uuid4().hex)
        path.write_text(json.dumps([start, time.time()]))
        return done


class TimedExchange:
    """Adds up the time of the steps."""

    def __init__(self, exchange: BeamExchange, folder: Path) -> None:
        """Wraps an exchange."""
        self._exchange = exchange
        self._folder = folder
        self.seconds = 0.0
        self.busy = 0.0

    def run(self, tasks: Any, mapper: Any, num_partitions: int, reducer: Any) -> Any:
        """See `Exchange`."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        mapper, reducer = Timed(mapper, str(folder)), Timed(reducer, str(folder))
        results = self._exchange.run(tasks, mapper, num_partitions, reducer)
        spans = [json.loads(path.read_text()) for path in folder.iterdir()]
        self.seconds += max(end for _, end in spans) - min(start for start, _ in spans)
        self.busy += sum(end - start for start, end in spans)
        return results


def measure(location: str, num: int, endpoint: str, workers: int) -> tuple[float, float, float]:
    """Divides the images: seconds in all, of the steps without starting workers, and of mappers and reducers."""
    flink = {"job_endpoint": endpoint, "parallelism": workers, "worker_processes": workers}
    arguments = BeamSection.model_validate({"runner": "flink", "flink": flink}).arguments()
    # One worker is a process of its own too, as on another machine.
    arguments += ["--experiments=use_loopback_process_worker"]
    sizes = [min(FILES_PER_SHARD, num - start) for start in range(0, num, FILES_PER_SHARD)]
    folder = WorkFolder(location)
    with tempfile.TemporaryDirectory() as notes:
        exchange = TimedExchange(BeamExchange(lambda: beam.Pipeline(argv=arguments), folder), Path(notes))
        start = time.monotonic()
        divided = division.divide(folder, sizes, DataOptions(), (), exchange, per_partition=IMAGES_PER_PARTITION)
        seconds = time.monotonic() - start
    assert sum(divided.tally.examples.values()) == num - len(divided.refused)
    return seconds, exchange.seconds, exchange.busy


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("endpoint")
    parser.add_argument("--num", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, action="append")
    arguments = parser.parse_args()
    node_runner.let_workers_find_python()
    print(
        f"| {arguments.num:,} images | elapsed, s | without start, s | mappers and reducers, s |\n|---|---|---|---|",
        flush=True,
    )
    location = tempfile.mkdtemp()
    try:
        records.write(WorkFolder(location), arguments.num, groups=False)
        for workers in arguments.workers or [1, 2]:
            seconds, steps, busy = measure(location, arguments.num, arguments.endpoint, workers)
            print(f"| {workers} worker{'s'[: workers > 1]} | {seconds:.1f} | {steps:.1f} | {busy:.1f} |", flush=True)
    finally:
        shutil.rmtree(location)


if __name__ == "__main__":
    main()
