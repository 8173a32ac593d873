"""Measures the division of a dataset: processor time and peak memory, for growing numbers of images.

    python tests/bench/division.py [--num 10000 --num 100000 ...] [--near report|together|off] [--by content|class]
        [--groups] [--per-partition 50000]

Records are made up: ten classes, paths of 40 letters, digests and perceptual hashes; one image in 1,000 has the bytes
of another, and one in 1,000 almost its hash. They are written into the files that the first pass of ImageExampleGen
writes; a process for every number divides them with the exchange of one process.
"""

import argparse
import hashlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from components.image_example_gen import division
from components.image_example_gen.exchange import IMAGES_PER_PARTITION, LocalExchange
from components.image_example_gen.options import DataOptions
from components.image_example_gen.records import columns_of
from components.image_example_gen.shards import FILES_PER_SHARD, RECORDS, WorkFolder
from components.image_example_gen.splits import Record

_EVERY = 1000  # one image in so many is a duplicate
_PER_GROUP = 20


def record(index: int, num: int, groups: bool) -> Record:
    """Makes up the record of an image."""
    content = (index * 7919 + 3) % num if index % _EVERY == 0 else index  # 3: the other is none of these
    sha256 = hashlib.sha256(str(content).encode()).hexdigest()
    looks = index * 6007 % num if index % _EVERY == 1 else content
    perceptual_hash = int(hashlib.md5(str(looks).encode(), usedforsecurity=False).hexdigest()[:16], 16) >> 1
    return Record(
        path=f"class-{content % 10}/{'x' * 20}{index:012d}.jpg",
        classes=(f"class-{content % 10}",),
        split="",
        group=f"patient-{index // _PER_GROUP}" if groups else "",
        sha256=sha256,
        label_digest=f"{content % 10:016x}",
        perceptual_hash=perceptual_hash ^ (looks != content),
    )


def write(folder: WorkFolder, num: int, groups: bool) -> None:
    """Writes all shards."""
    for number, start in enumerate(range(0, num, FILES_PER_SHARD)):
        places = range(start, min(num, start + FILES_PER_SHARD))
        folder.store(RECORDS, number, columns_of([record(index, num, groups) for index in places]))


def cpu_seconds() -> float:
    """Processor time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_mib() -> int:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def size_of(folder: Path) -> int:
    """Size of all files."""
    return sum(path.stat().st_size for path in folder.iterdir())


def measure(location: str, num: int, options: DataOptions, per_partition: int) -> None:
    """Divides the images in this process, and prints a row."""
    sizes = [min(FILES_PER_SHARD, num - start) for start in range(0, num, FILES_PER_SHARD)]
    records = size_of(Path(location))
    start_mib, cpu, start = peak_mib(), cpu_seconds(), time.monotonic()
    exchange = LocalExchange(per_partition)
    divided = division.divide(WorkFolder(location), sizes, options, (), exchange, per_partition=per_partition)
    cpu, seconds = cpu_seconds() - cpu, time.monotonic() - start
    assert sum(divided.tally.examples.values()) == num - len(divided.refused)
    duplicates = sum(counts.duplicates for counts in divided.duplicates.values())
    files = (size_of(Path(location)) - records) / num
    print(
        f"| {num:,} | {cpu:.1f} | {seconds:.1f} | {1e6 * cpu / num:.1f} | {peak_mib():,} | {start_mib:,} | "
        f"{records / num:.0f} | {files:.0f} | {duplicates:,} |",
        flush=True,
    )


def main() -> None:
    """Prints the table: a process for every number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, action="append")
    parser.add_argument("--near", choices=["report", "together", "off"], default="report")
    parser.add_argument("--by", choices=["content", "class"], default="content")
    parser.add_argument("--groups", action="store_true", help=f"{_PER_GROUP} images in a group")
    parser.add_argument("--per-partition", type=int, default=IMAGES_PER_PARTITION)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    options = DataOptions(near_duplicates=arguments.near, splits={"by": arguments.by})
    if arguments.measure:
        measure(arguments.measure, arguments.num[0], options, arguments.per_partition)
        return
    print(
        "| images | processor, s | elapsed, s | µs an image | peak, MiB | before, MiB | records, B an image | "
        "other files, B an image | duplicates |\n|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for num in arguments.num or [10_000, 100_000, 1_000_000]:
        location = tempfile.mkdtemp()
        try:
            write(WorkFolder(location), num, arguments.groups)
            command = [sys.executable, __file__, "--measure", location, "--num", str(num)]
            command += ["--near", arguments.near, "--by", arguments.by]
            command += ["--per-partition", str(arguments.per_partition)]
            subprocess.run(command, check=True)
        finally:
            shutil.rmtree(location)


if __name__ == "__main__":
    main()
