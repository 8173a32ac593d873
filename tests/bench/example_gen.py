"""Measures ImageExampleGen against tf.data, which only reads and decodes the same files, in one run.

    python tests/bench/example_gen.py DIR [--num 10000] [--rounds 3] [--profile]

Every round is a process of its own: tf.data, then the node as a run executes it, both on the first N images of the
class folders. The least of all rounds counts.
"""

import argparse
import contextlib
import cProfile
import json
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trainer_module  # noqa: F401  (says which Keras before anything imports TensorFlow)


def read_and_decode(paths: list[str]) -> float:
    """Seconds that tf.data needs."""
    import tensorflow as tf

    def decode(path: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)

    start = time.monotonic()
    images = tf.data.Dataset.from_tensor_slices(paths).map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    assert int(images.reduce(0, lambda total, _: total + 1)) == len(paths)
    return time.monotonic() - start


def measure(data: Path, run_dir: Path, profile: bool) -> dict[str, float]:
    """Measures both in this process: seconds."""
    from pipeline import dag
    from pipeline.config import loading
    from pipeline.execution import dataset, node_runner

    loaded = loading.load("images", data=str(data), overrides=[f"pipeline.root={run_dir}"])
    loaded.run_dir.mkdir(parents=True)
    prepared = dataset.prepare(loaded)
    pipeline = dag.create_pipeline(loaded, prepared, metadata_path=loaded.metadata_path)
    seconds = {"tf.data": read_and_decode([str(path) for path in sorted(data.glob("*/*"))])}
    results: list = []
    with cProfile.Profile() if profile else contextlib.nullcontext() as profiler:
        node_runner.run(pipeline, run_id="1", to_node="ImageExampleGen", on_node=results.append)
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(60)
    (seconds["ImageExampleGen"],) = (node.seconds for node in results if node.state == "complete")
    return seconds


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="print where ImageExampleGen spends its time")
    parser.add_argument("--run-dir", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run_dir:
        print(json.dumps(measure(arguments.data, arguments.run_dir, arguments.profile)))
        return

    from data_path import link_images

    least: dict[str, float] = {}
    # Beside the images, so that they can be linked.
    with tempfile.TemporaryDirectory(dir=arguments.data.parent) as work:
        images = Path(work) / "images"
        link_images(arguments.data, images, arguments.num)
        for number in range(arguments.rounds):
            command = [sys.executable, __file__, str(images), "--run-dir", f"{work}/{number}"]
            command += ["--profile"] if arguments.profile else []
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            if arguments.profile:
                print(done.stderr[done.stderr.index("function calls") - 20 :], file=sys.stderr)
            seconds = json.loads(done.stdout.splitlines()[-1])
            print(f"round {number + 1}: " + ", ".join(f"{form} {value:.2f} s" for form, value in seconds.items()))
            least = {form: min(value, least.get(form, value)) for form, value in seconds.items()}
    print(f"\n| {arguments.num:,} images | s | images/s |\n|---|---|---|")
    for form, value in least.items():
        print(f"| {form} | {value:.2f} | {arguments.num / value:,.0f} |")
    print(f"\nImageExampleGen reaches {least['tf.data'] / least['ImageExampleGen']:.0%} of tf.data.")


if __name__ == "__main__":
    main()
