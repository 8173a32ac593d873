"""Whether a converted EfficientNet-Lite computes the same as the original.

python tests/bench/lite_conversion.py IMAGES [--backbone efficientnet_lite2] [--num 64]

Two checks, with the package of the weights installed. Batch normalisation stores the mean and the
standard deviation of its input in training on ImageNet: if every weight is in its place, photographs have nearly the
same, layer by layer. The second check classifies images that some of the 1,000 classes fit: IMAGES is the clothing
dataset, one folder per class. A convolution that is transposed, or padded on the wrong side, fails both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from trainer_module import backbones, preprocessing
from trainer_module.model_input import Geometry

# Ids of the ImageNet classes that an image of the folder may show.
FITTING = {
    "shoes": {502: "clog", 514: "cowboy boot", 630: "loafer", 770: "running shoe", 774: "sandal"},
    "pants": {608: "jean", 697: "pajama", 842: "swimming trunks"},
    "hat": {452: "bonnet", 515: "cowboy hat", 808: "sombrero"},
    "skirt": {601: "hoopskirt", 655: "miniskirt", 689: "overskirt"},
    "t-shirt": {610: "jersey", 841: "sweatshirt"},
}


def read(files: list[Path], size: int) -> np.ndarray:
    """float32 [n, size, size, 3], range [0, 255]."""
    geometry = Geometry.of(size)
    images = [preprocessing.decode_and_resize(tf.constant([path.read_bytes()]), geometry, 3).numpy() for path in files]
    return np.concatenate(images).astype(np.float32)


def evenly(files: list[Path], num: int) -> list[Path]:
    """At most `num` of the files, evenly spaced."""
    return [files[index] for index in np.linspace(0, len(files) - 1, min(num, len(files))).astype(int)]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--num", type=int, default=64)
    arguments = parser.parse_args()
    backbone = backbones.get(arguments.backbone)
    size = backbone.weights[0].image_size or 224
    classifier = backbone.build_classifier(image_size=size, weights=backbones.IMAGENET)

    images = read(evenly(sorted(arguments.images.rglob("*.jpg")), arguments.num), size)
    norms = [layer for layer in classifier.layers if isinstance(layer, keras.layers.BatchNormalization)]
    into = keras.Model(classifier.input, [layer.input for layer in norms])
    sums = [np.zeros((2, layer.moving_mean.shape[0])) for layer in norms]
    for start in range(0, len(images), 8):
        for total, maps in zip(sums, into(images[start : start + 8], training=False), strict=True):
            total += np.stack([np.mean(maps, (1, 2)).sum(0), np.mean(np.square(maps), (1, 2)).sum(0)])
    shifts, ratios = [], []
    for layer, total in zip(norms, sums, strict=True):
        moving_mean, moving_variance = (value.numpy() for value in (layer.moving_mean, layer.moving_variance))
        alive = moving_variance > 1e-6  # some channels are constant
        (mean, square), known = total[:, alive] / len(images), np.sqrt(moving_variance[alive])
        shifts.append(np.median(np.abs(mean - moving_mean[alive]) / known))
        ratios.append(np.median(np.sqrt(np.maximum(square - mean**2, 0)) / known))
    print(f"{len(images)} images, {len(norms)} layers; median channel of the median and of the worst layer")
    print(f"distance of the means, in std     {np.median(shifts):.2f}  {max(shifts):.2f}")
    print(f"ratio of the standard deviations  {np.median(ratios):.2f}  {max(ratios, key=lambda r: abs(r - 1)):.2f}")

    for folder, fitting in FITTING.items():
        images = read(evenly(sorted((arguments.images / folder).iterdir()), arguments.num), size)
        first = classifier.predict(images, batch_size=8, verbose=0).argmax(axis=1)
        share = np.mean(np.isin(first, list(fitting)))
        print(f"{folder}: {share:.2f} of {len(images)} are {', '.join(fitting.values())}")


if __name__ == "__main__":
    main()
