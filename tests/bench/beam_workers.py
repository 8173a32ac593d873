"""Several worker processes against one: seconds of every node that Beam runs.

    python tests/bench/beam_workers.py IMAGES [--num 10000] [--workers 2] [--rounds 2] [--set section.key=value]

Runs the preset `images` at 32 px, one epoch, up to GradCam: with `[beam] runner = "local"`, then with
`multi_processing`, and so on by turns, each in a process of its own on the first N images of the class folders. Other
work on the machine touches both; the least of all rounds counts.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import trainer_module  # noqa: F401  (says which Keras before anything imports TensorFlow)

NODES = ("ImageExampleGen", "StatisticsGen", "Transform", "Evaluator", "GradCam")
SETTINGS = (
    "transform.image_size=32",
    "training.epochs=1",
    "training.batch_size=128",
    "evaluation.thresholds={accuracy=0.0}",
    "evaluation.disabled_rules=['beats_constant','beats_chance','classes_predicted','classes_correct']",
)


def measure(runner: str, data: str, run_dir: str, workers: int, overrides: list[str]) -> dict[str, float]:
    """Runs the pipeline in this process: seconds of every node."""
    from pipeline import dag
    from pipeline.config import loading
    from pipeline.execution import dataset, node_runner

    settings = [f"pipeline.root={run_dir}", f"beam.runner={runner}", f"beam.workers={workers}", *SETTINGS, *overrides]
    loaded = loading.load("images", data=data, overrides=settings)
    loaded.run_dir.mkdir(parents=True)
    results: list = []
    node_runner.run(
        dag.create_pipeline(loaded, dataset.prepare(loaded), metadata_path=loaded.metadata_path),
        run_id=runner,
        to_node="GradCam",
        on_node=results.append,
    )
    return {node.id: node.seconds for node in results if node.state == "complete"}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--runner", choices=["local", "multi_processing"], help=argparse.SUPPRESS)
    parser.add_argument("--run-dir", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.runner:
        seconds = measure(
            arguments.runner, str(arguments.data), arguments.run_dir, arguments.workers, arguments.overrides
        )
        print(json.dumps(seconds))
        return

    from data_path import link_images

    runners = ("local", "multi_processing")
    least: dict[str, dict[str, float]] = {runner: {} for runner in runners}
    # Beside the images, so that they can be linked.
    with tempfile.TemporaryDirectory(dir=arguments.data.parent) as work:
        images = Path(work) / "images"
        link_images(arguments.data, images, arguments.num)
        for number in range(arguments.rounds):
            for runner in runners:
                command = [sys.executable, __file__, str(images), "--runner", runner]
                command += ["--workers", str(arguments.workers)]
                command += [part for override in arguments.overrides for part in ("--set", override)]
                with tempfile.TemporaryDirectory(dir=work) as run_dir:
                    command += ["--run-dir", run_dir]
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr[-3000:])
                seconds = json.loads(done.stdout.splitlines()[-1])
                print(f"round {number + 1}, {runner}: " + ", ".join(f"{id_} {seconds[id_]:.1f}" for id_ in NODES))
                for id_ in NODES:
                    least[runner][id_] = min(seconds[id_], least[runner].get(id_, seconds[id_]))
    print(
        f"\n| {arguments.num:,} images | one process, s | {arguments.workers} workers, s | ratio |\n|---|---|---|---|"
    )
    for id_ in NODES:
        one, several = (least[runner][id_] for runner in runners)
        print(f"| {id_} | {one:.1f} | {several:.1f} | {one / several:.2f} |")


if __name__ == "__main__":
    main()
