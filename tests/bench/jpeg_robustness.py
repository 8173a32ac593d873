"""CIFAR-10: accuracy on lossless held-out images and on JPEG copies of them, with and without augmentation.

python tests/bench/jpeg_robustness.py IMAGES [--epochs 8] [--set augmentation.jpeg_quality=30] ...

IMAGES is as for cifar10.py, and so are the preset, the split and the kept epoch: only lossless images select it. The
copies are encoded by Pillow, whose libjpeg is not the one of the augmentation. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
import time
from pathlib import Path

import cifar10
import numpy as np
from PIL import Image

from trainer_module.checkpoints import CheckpointFile

QUALITIES = (95, 90, 75, 50, 25)


def jpeg(images: np.ndarray, quality: int) -> np.ndarray:
    """JPEG copies of uint8 [n, h, w, 3]."""

    def copy(pixels: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer))

    return np.stack([copy(pixels) for pixels in images])


def main() -> None:
    """Trains, measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], help="as for tfx-vision run")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")

    classes, train, (images, labels) = cifar10.read(arguments.images)
    start = time.process_time()
    checkpoint = CheckpointFile(None, key="")
    model, _ = cifar10.preset(classes, train, (images, labels), arguments.epochs, arguments.set, checkpoint)
    cpu_minutes = (time.process_time() - start) / 60

    def accuracy(batch: np.ndarray) -> float:
        logits = [model(batch[index : index + 250], training=False) for index in range(0, len(batch), 250)]
        return round(float(np.mean(np.concatenate(logits).argmax(axis=1) == labels)), 4)

    report = {"set": arguments.set, "epochs": arguments.epochs, "cpu_minutes": round(cpu_minutes, 1)}
    report |= {"lossless": accuracy(images)}
    report |= {f"quality {quality}": accuracy(jpeg(images, quality)) for quality in QUALITIES}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
