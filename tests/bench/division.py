"""What ImageExampleGen does in one process whatever the runner: time and memory of holding and dividing all images.

    python tests/bench/division.py [--num 100000 --num 1000000] [--near report|together|off]

Records are made up: ten classes, paths of 40 letters, random digests and perceptual hashes, one in 1,000 a copy.
"""

import argparse
import resource
import subprocess
import sys
import time

import numpy as np

from components.image_example_gen import splits
from components.image_example_gen.options import DataOptions


def records(num: int) -> list[splits.Record]:
    """Makes up the records of `num` images."""
    rng = np.random.default_rng(1)
    source = rng.integers(0, num, num)
    source = np.where(rng.random(num) < 0.001, source, np.arange(num))
    hashes = rng.integers(0, 2**63, num, dtype=np.int64)
    return [
        splits.Record(
            path=f"class-{index % 10}/{'x' * 20}{index:012d}.jpg",
            classes=(f"class-{of % 10}",),
            split="",
            group="",
            sha256=f"{hashes[of]:016x}" * 4,
            label_digest=f"{of % 10:016x}",
            perceptual_hash=int(hashes[of]),
        )
        for index, of in enumerate(source.tolist())
    ]


def peak_mib() -> int:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Prints the table: a process for every number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, action="append")
    parser.add_argument("--near", choices=["report", "together", "off"], default="report")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        before = peak_mib()
        made = records(arguments.measure)
        peak_with_list, start = peak_mib(), time.monotonic()
        splits.divide(made, DataOptions(near_duplicates=arguments.near), ())
        seconds = time.monotonic() - start
        print(f"| {arguments.measure:,} | {seconds:.1f} | {peak_with_list - before:,} | {peak_mib() - before:,} |")
        return
    print("| images | dividing, s | records, MiB | peak, MiB |\n|---|---|---|---|", flush=True)
    for num in arguments.num or [100_000, 1_000_000]:
        subprocess.run([sys.executable, __file__, "--measure", str(num), "--near", arguments.near], check=True)


if __name__ == "__main__":
    main()
