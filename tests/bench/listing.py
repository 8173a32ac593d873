"""Measures the listing of class folders, and the lists of the shards: processor time, peak memory, and waiting.

    python tests/bench/listing.py [--num 10000 --num 100000 ...] [--per-folder 1000] [--delay-ms 20] [--sequential]

For every number, folders of files are made in a temporary folder: hard links to some empty files, which take almost no
space and few inodes. Beyond a million files, further folders are links to the first ones. A process for every number
lists them as ImageExampleGen does. With `--delay-ms`, each list of the names in a folder takes so much longer, as the
request to an object store does, and as many folders are listed at a time; with `--sequential`, it is one.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from components.image_example_gen import files, mixed_shards
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.exchange import LocalExchange
from components.image_example_gen.options import DataOptions
from components.image_example_gen.shards import FILES_PER_SHARD, WorkFolder

_LINKS_PER_FILE = 50_000  # ext4 allows 65,000
_MOST_FILES = 1_000_000


def make_tree(root: Path, num: int, per_folder: int) -> None:
    """Writes class folders of empty files with names of 16 letters."""
    sources = root.with_name("sources")
    sources.mkdir()
    num_folders = -(-min(num, _MOST_FILES) // per_folder)
    for first in range(0, num, per_folder):
        place = first // per_folder
        folder = root / f"class-{place:05d}"
        if place >= num_folders:
            folder.symlink_to(f"class-{place % num_folders:05d}")
            continue
        folder.mkdir(parents=True)
        for number in range(first, min(num, first + per_folder)):
            source = f"{sources}/{number // _LINKS_PER_FILE}"
            if number % _LINKS_PER_FILE == 0:
                open(source, "w").close()
            os.link(source, f"{folder}/{number:012d}.jpg")


def cpu_seconds() -> float:
    """Processor time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_mib() -> int:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure(root: str, num: int, delay: float, sequential: bool) -> None:
    """Lists the files in this process, and prints a row."""
    list_names = os.listdir
    if delay:

        def slow(location: str) -> list[str]:
            time.sleep(delay)
            return list_names(location)

        os.listdir = slow  # type: ignore[assignment]
        files.num_threads = lambda root: files._STORE_FOLDERS
    if sequential:
        files.ahead = lambda function, items, threads: map(function, items)
    start_mib, cpu, start = peak_mib(), cpu_seconds(), time.monotonic()
    dataset = inspect_dataset(root, DataOptions())
    listed_cpu, listed = cpu_seconds(), time.monotonic()
    with tempfile.TemporaryDirectory() as location:
        sizes = mixed_shards.write(dataset.entries, WorkFolder(location), LocalExchange(), FILES_PER_SHARD)
    shards_cpu = cpu_seconds() - listed_cpu
    assert sum(sizes) == len(dataset.entries) == num
    print(
        f"| {num:,} | {listed_cpu - cpu:.1f} | {listed - start:.1f} | {1e6 * (listed_cpu - cpu) / num:.1f} | "
        f"{shards_cpu:.1f} | {1e6 * shards_cpu / num:.1f} | {peak_mib():,} | {start_mib:,} |",
        flush=True,
    )


def main() -> None:
    """Prints the table: a process for every number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, action="append")
    parser.add_argument("--per-folder", type=int, default=1000)
    parser.add_argument("--delay-ms", type=float, default=0)
    parser.add_argument("--sequential", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.num[0], arguments.delay_ms / 1000, arguments.sequential)
        return
    print(
        "| files | listing, processor s | elapsed, s | µs a file | shards, processor s | µs a file | peak, MiB | "
        "before, MiB |\n|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for num in arguments.num or [10_000, 100_000, 1_000_000]:
        location = tempfile.mkdtemp()
        try:
            root = Path(location, "images")
            make_tree(root, num, min(arguments.per_folder, num // 2))
            command = [sys.executable, __file__, "--measure", str(root), "--num", str(num)]
            command += ["--delay-ms", str(arguments.delay_ms)] + ["--sequential"] * arguments.sequential
            subprocess.run(command, check=True)
        finally:
            shutil.rmtree(location)


if __name__ == "__main__":
    main()
