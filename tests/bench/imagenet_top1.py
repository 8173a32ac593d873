"""Top-1 accuracy of a backbone's weights on images of ImageNet: shows whether weights and preprocessing fit together.

python tests/bench/imagenet_top1.py IMAGES BACKBONE [--weights FILE] [--size 224]

IMAGES contains one image per class, whose file names begin with the WordNet id of the class (n01440764_tench.JPEG), so
that their alphabetical order is the order of the 1,000 classes. The measured numbers in the records of
`trainer_module/backbones` are of https://github.com/EliSchwartz/imagenet-sample-images, commit bc69043.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer_module import backbones

BATCH = 25


def read(path: Path, size: int) -> tf.Tensor:
    """The centre crop, 7/8 of the shorter side as in the evaluation of these networks: float32 [size, size, 3]."""
    pixels = tf.image.decode_jpeg(path.read_bytes(), channels=3)
    side = round(0.875 * min(pixels.shape[:2]))
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    crop = tf.image.crop_to_bounding_box(pixels, top, left, side, side)
    return tf.clip_by_value(tf.image.resize(crop, [size, size], method="bicubic", antialias=True), 0.0, 255.0)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("backbone", choices=backbones.names())
    parser.add_argument("--weights", default=backbones.IMAGENET, help="imagenet, or a file with classifier")
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()
    model = backbones.get(arguments.backbone).build_classifier(image_size=arguments.size, weights=arguments.weights)
    paths = sorted(arguments.images.glob("n[0-9]*.JPEG"))
    if len(paths) != model.output.shape[1]:
        parser.error(f"{arguments.images} contains {len(paths)} images, not one for each of {model.output.shape[1]}.")
    predictions: list[int] = []
    for start in range(0, len(paths), BATCH):
        images = tf.stack([read(path, arguments.size) for path in paths[start : start + BATCH]])
        predictions.extend(np.argmax(model(images, training=False), axis=1))
    accuracy = np.mean(np.array(predictions) == np.arange(len(paths)))
    print(f"{arguments.backbone}, {arguments.size} px: top-1 accuracy {accuracy:.3f} of {len(paths)} images")


if __name__ == "__main__":
    main()
