"""The input of a training without a training: images per second that reach a step, for every kind of cache.

    python tests/bench/training_input.py RUN [--epochs 3]

RUN is the folder of a run (`runs/<name>`); its examples, transform graph and options are read. The first epoch decodes
and resizes, and fills the cache; the others read it. Every batch is shuffled as in Trainer, and dropped. Augmentation
is not part of it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import tensorflow as tf

from trainer_module import features, input_pipeline
from trainer_module.hooks.inputs import read_inputs
from trainer_module.options import TrainerOptions

_CACHES = ("memory", "disk", "none")


def newest(folder: Path, contained: str) -> Path:
    """Returns the artifact with the highest number that contains a file or folder; those of failed runs may not."""
    return max((path.parent for path in folder.glob(f"*/{contained}")), key=lambda path: int(path.name))


def main() -> None:
    """Prints a table: a line for every kind of cache and epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    artifacts = arguments.run / "artifacts"
    examples = newest(artifacts / "ImageExampleGen" / "examples", "Split-train")
    inputs = SimpleNamespace(
        train_files=[str(examples / "Split-train" / "*")],
        eval_files=[str(examples / "Split-validation" / "*")],
        transform_graph_path=str(newest(artifacts / "Transform" / "transform_graph", "transform_fn")),
    )
    options = TrainerOptions.model_validate_json(
        (newest(artifacts / "Trainer" / "model_run", features.OPTIONS_FILE) / features.OPTIONS_FILE).read_text()
    )
    print("| cache | epoch | images | images/s | processor, s |\n|---|---|---|---|---|", flush=True)
    for cache in _CACHES:
        chosen = options.model_copy(update={"training": options.training.model_copy(update={"cache": cache})})
        with tempfile.TemporaryDirectory() as folder:
            data = read_inputs(inputs, chosen, folder).data.train
            batches = input_pipeline.batch_examples(data, options.training.batch_size, shuffle_seed=1)
            for epoch in range(arguments.epochs):
                start, used = time.perf_counter(), time.process_time()
                num_images = sum(int(tf.shape(images)[0]) for images, _ in batches)
                seconds, used = time.perf_counter() - start, time.process_time() - used
                print(
                    f"| {cache} | {epoch + 1} | {num_images:,} | {num_images / seconds:,.0f} | {used:.1f} |", flush=True
                )


if __name__ == "__main__":
    main()
