"""GradCam on many images: seconds, and the most memory that the process takes.

python tests/bench/grad_cam_component.py IMAGES [--num 2500] [--num 10000] [--select chosen|everything] ...

IMAGES holds class folders of PNG or JPEG files; of them the first `num` are taken, from every class alike. Every
measurement is a process of its own: an untrained network of the preset `cifar10`, slices by brightness, the defaults
of `[grad_cam]` but for `select`. Prints one JSON object a measurement; loading the network and starting Beam are part
of the time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SELECTIONS = ("chosen", "everything")
BEAM = ["--runner=FnApiRunner"]  # as the pipeline says


def write_examples(files: list[Path], folder: Path) -> None:
    """Writes raw examples, as ImageExampleGen does, in shards of 5,000."""
    import tensorflow as tf

    from components.image_example_gen import image_file, raw_examples
    from components.image_example_gen.options import DataOptions
    from trainer_module import features

    for shard in range(0, len(files), 5000):
        with tf.io.TFRecordWriter(str(folder / f"data_{shard:07d}.gz"), "GZIP") as writer:
            for file in files[shard : shard + 5000]:
                encoded, name = file.read_bytes(), file.parent.name
                properties = image_file.examine(image_file.prepare(encoded, DataOptions(max_pixels=10**6)))
                slices = properties.slices()
                label = {features.CLASS_TEXT: [name]}
                example = raw_examples.serialize(f"{name}/{file.name}", encoded, properties, label=label, slices=slices)
                writer.write(example)


def measure(files: list[Path], classes: list[str], select: str) -> dict[str, Any]:
    """Explains in this process."""
    import logging

    logging.disable(logging.WARNING)
    import numpy as np
    from tfx.types import standard_artifacts

    import components
    from components.grad_cam import executor
    from components.image_example_gen.artifact import ClassNames
    from pipeline.config import loading
    from trainer_module import features
    from trainer_module.input_pipeline import PixelStatistics
    from trainer_module.network import build as build_network

    loaded = loading.load("cifar10", data="unused", overrides=[f"grad_cam.select={select}"])
    options = loaded.trainer_options(tuple(classes))
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name in ("examples/Split-test", "model_run", "explanations"):
            (root / name).mkdir(parents=True)
        write_examples(files, root / "examples/Split-test")
        model = build_network(options, PixelStatistics(np.full(3, 120.0, "f"), np.full(3, 4000.0, "f")))
        model.save(root / "model_run" / features.KERAS_FILE)
        inputs = {
            "examples": standard_artifacts.Examples(),
            "model": standard_artifacts.Model(),
            "model_run": standard_artifacts.ModelRun(),
        }
        explanations = components.GradCamExplanations()
        for name, artifact in (inputs | {"explanations": explanations}).items():
            artifact.uri = str(root / name)
        ClassNames(names=options.classes).write(inputs["examples"].uri)
        inputs["examples"].split_names = '["test"]'
        properties = {
            "options": options.model_dump_json(exclude={"classes"}),
            "split": "test",
            "slices": '["brightness"]',
        }
        context = executor.Executor.Context(beam_pipeline_args=BEAM, tmp_dir=str(root), unique_id="1")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        executor.Executor(context).Do(
            {name: [artifact] for name, artifact in inputs.items()}, {"explanations": [explanations]}, properties
        )
        seconds = time.perf_counter() - start
        written = sum(path.stat().st_size for path in (root / "explanations").rglob("*") if path.is_file())
        drawn = explanations.get_int_custom_property("explained")
    return {
        "select": select,
        "images": len(files),
        "drawn": drawn,
        "seconds": round(seconds, 1),
        "images_a_second": round(len(files) / seconds),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "peak_before_mib": before // 1024,
        "written_mib": round(written / 2**20, 1),
    }


def main() -> None:
    """Measures every size and selection, each in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("--num", type=int, action="append")
    parser.add_argument("--select", choices=SELECTIONS, action="append")
    parser.add_argument("--here", action="store_true", help="one measurement, in this process")
    arguments = parser.parse_args()
    sizes, selections = arguments.num or [2500, 10000], arguments.select or list(SELECTIONS)
    if not arguments.here:
        for select, num in itertools.product(selections, sizes):
            command = [sys.executable, __file__, str(arguments.images), "--here", f"--num={num}"]
            quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
            done = subprocess.run(
                [*command, f"--select={select}"], check=False, env=quiet, capture_output=True, text=True
            )
            print(done.stdout.strip() or done.stderr[-2000:], flush=True)
        return
    classes = sorted(path.name for path in arguments.images.iterdir() if path.is_dir())
    by_class = [sorted((arguments.images / name).iterdir()) for name in classes]
    files = list(itertools.islice((f for row in itertools.zip_longest(*by_class) for f in row if f), sizes[0]))
    print(json.dumps(measure(files, classes, selections[0])))


if __name__ == "__main__":
    main()
