"""Measures the first pass of ImageExampleGen on Flink with one worker process, and with several, on a core each.

    python tests/bench/example_gen_workers.py ENDPOINT DIR [--workers 1 --workers 2] [--worker-pool HOST:PORT]

ENDPOINT is the address of a job server (`scripts/job_server.sh flink`), DIR contains class folders. With a worker
pool (`python -m apache_beam.runners.worker.worker_pool_main`), the engine is a cluster whose TaskManagers have one slot
each. A worker is limited to one core: otherwise one worker uses all of them with the threads of TensorFlow. The start
of the workers, and the first shard of each, in which it builds its graphs, are not counted.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
from pathlib import Path

import apache_beam as beam

from components.image_example_gen import shards
from components.image_example_gen.beam_steps import ExamineImages, OnShards, Pass
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.options import DataOptions, ExampleGenOptions
from components.image_example_gen.shards import WorkFolder
from pipeline.execution import node_runner
from pipeline.execution.beam_options import BeamSection

_PER_SHARD = 500


class OnOneCore:
    """A pass that runs on a core of its own, shard by shard, and notes when each begins and ends."""

    def __init__(self, work: Pass, folder: str) -> None:
        """Wraps the pass."""
        self._work = work
        self._folder = folder

    def __call__(self, numbers: list[int]) -> None:
        """Runs the pass."""
        core = self._core()
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(thread), {core})
        for number in numbers:
            start = time.time()
            self._work([number])
            Path(self._folder, f"shard-{number}").write_text(json.dumps([core, start, time.time()]))

    def _core(self) -> int:
        for core in range(os.cpu_count() or 1):
            path = Path(self._folder, f"core-{core}")
            with contextlib.suppress(FileExistsError), path.open("x") as file:
                file.write(str(os.getpid()))
            if path.read_text() == str(os.getpid()):
                return core
        raise RuntimeError("There are more workers than cores.")


def measure(data: str, endpoint: str, workers: int, worker_pool: str) -> tuple[float, int]:
    """Returns images per second, all workers together, and the number of workers that the engine gave work to."""
    flink = {"job_endpoint": endpoint, "parallelism": workers, "worker_processes": workers}
    if worker_pool:
        flink |= {"environment": "external", "worker_pool": worker_pool, "worker_processes": 1}
    arguments = BeamSection.model_validate({"runner": "flink", "flink": flink}).arguments()
    arguments += ["--experiments=use_loopback_process_worker"]
    dataset = inspect_dataset(data, DataOptions())
    options = ExampleGenOptions(data=DataOptions(), classes=dataset.classes)
    with tempfile.TemporaryDirectory() as location, tempfile.TemporaryDirectory() as notes:
        folder = WorkFolder(location)
        work = shards.make_shards(dataset.entries, _PER_SHARD)
        for shard in work:
            folder.write(shards.ENTRIES, shard.number, shard.entries)
        examine = OnOneCore(ExamineImages(dataset.root, dataset.layout, folder, options), notes)
        with beam.Pipeline(argv=arguments) as pipeline:
            numbers = pipeline | beam.Create([shard.number for shard in work]) | beam.Reshuffle()
            _ = numbers | beam.ParDo(OnShards(examine))
        spans = {shard.number: json.loads(Path(notes, f"shard-{shard.number}").read_text()) for shard in work}
    counted = 0
    begin, end = float("inf"), 0.0
    for core in {span[0] for span in spans.values()}:
        first = min(number for number in spans if spans[number] == min(s for s in spans.values() if s[0] == core))
        rest = [number for number, span in spans.items() if span[0] == core and number != first]
        counted += sum(len(work[number].entries) for number in rest)
        begin, end = min([begin, *(spans[n][1] for n in rest)]), max([end, *(spans[n][2] for n in rest)])
    return counted / (end - begin), len({span[0] for span in spans.values()})


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("endpoint")
    parser.add_argument("data")
    parser.add_argument("--workers", type=int, action="append")
    parser.add_argument("--worker-pool", default="")
    arguments = parser.parse_args()
    node_runner.let_workers_find_python()
    print("| workers, a core each | of them at work | images/s |\n|---|---|---|", flush=True)
    for workers in arguments.workers or [1, 2]:
        rate, num_at_work = measure(arguments.data, arguments.endpoint, workers, arguments.worker_pool)
        print(f"| {workers} | {num_at_work} | {rate:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
