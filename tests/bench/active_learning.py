"""Labels that `select` saves: accuracy of a linear head for selected and for random images.

python tests/bench/active_learning.py IMAGES WEIGHTS [--per-class 700] [--seeds 0 1 2] [--cache FILE.npz]

IMAGES holds one folder a class, WEIGHTS is a file of MobileNetV2, whose embeddings are computed once (and kept in
`--cache`). A quarter of the images is held out. The head starts with `--first` random labels; in every round the
product's selection chooses `--step` images, and the head is trained again. The other head receives as many random
images. At the end `share` is the number of labels with which the selection has the accuracy of random labels, divided
by the number of these, for every number of random labels up to the last.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import label_errors
import numpy as np
from sklearn.linear_model import LogisticRegression

from components.data_audit import out_of_fold
from components.image_example_gen.perceptual_hash import perceptual_hashes
from pipeline.labeling import selection
from pipeline.labeling.selection import ImageSet
from trainer_module import tasks


def read(folder: Path, weights: str, per_class: int, cache: Path | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns class ids, embeddings of unit length and perceptual hashes of at most so many images of every class."""
    if cache is not None and cache.exists():
        stored = np.load(cache)
        return stored["labels"], stored["embeddings"], stored["hashes"]
    _, names, labels, embeddings = label_errors.read(folder, weights, per_class)
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    hashes = np.concatenate([_hash(folder / name) for name in names])
    if cache is not None:
        np.savez(cache, labels=labels, embeddings=embeddings, hashes=hashes)
    return labels, embeddings, hashes


def _hash(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        reduced = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), float)
    return perceptual_hashes(reduced[np.newaxis])


def train(features: np.ndarray, labels: np.ndarray, num_classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """Trains a linear classifier; returns features float [N, d] → probabilities float [N, C]."""
    head = LogisticRegression(C=label_errors.RETRAINED, solver="newton-cg", max_iter=200).fit(features, labels)

    def probabilities(others: np.ndarray) -> np.ndarray:
        result = np.zeros((len(others), num_classes))
        result[:, head.classes_] = head.predict_proba(others)
        return result

    return probabilities


def run(
    data: tuple[np.ndarray, ...], seed: int, first: int, step: int, last: int, novel_share: float
) -> dict[str, list[float]]:
    """Measures the accuracy for numbers of labels from `first` to `last`, by way of choosing them."""
    labels, embeddings, hashes, features = data
    num_classes = int(labels.max()) + 1
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    held_out, pool = np.split(order, [len(order) // 4])
    judge = tasks.get("classification").labeling.uncertainty

    def accuracy(chosen: np.ndarray) -> tuple[float, Callable[[np.ndarray], np.ndarray]]:
        head = train(features[chosen], labels[chosen], num_classes)
        return float((head(features[held_out]).argmax(axis=1) == labels[held_out]).mean()), head

    def images(indices: np.ndarray) -> ImageSet:
        return ImageSet(embeddings[indices], tuple(map(str, indices)), hashes[indices])

    curves: dict[str, list[float]] = {"random": [], "select": []}
    for number in range(first, last + 1, step):
        curves["random"].append(accuracy(pool[:number])[0])
    chosen = pool[:first]
    while True:
        measured, head = accuracy(chosen)
        curves["select"].append(measured)
        if len(chosen) + step > last:
            return curves
        others = np.setdiff1d(pool, chosen)
        uncertainty = judge({"probabilities": head(features[others])})
        picked = selection.select(images(others), uncertainty, images(chosen), step, novel_share=novel_share)
        chosen = np.concatenate([chosen, others[[choice.position for choice in picked.choices]]])


def share_of_labels(numbers: np.ndarray, random: np.ndarray, select: np.ndarray) -> list[float | None]:
    """Returns, for every number of random labels, the share of them with which selected ones are as good.

    Between two measured numbers, accuracy is interpolated; None if the selection does not reach it.
    """
    shares: list[float | None] = []
    best = np.maximum.accumulate(select)
    for number, accuracy in zip(numbers, random, strict=True):
        if best[-1] < accuracy:
            shares.append(None)
            continue
        position = int(np.argmax(best >= accuracy))
        needed = float(numbers[position])
        if position:
            low, high = best[position - 1], best[position]
            needed = numbers[position - 1] + (accuracy - low) / (high - low) * (
                numbers[position] - numbers[position - 1]
            )
        shares.append(needed / number)
    return shares


def main() -> None:
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--per-class", type=int, default=700)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--first", type=int, default=200)
    parser.add_argument("--step", type=int, default=100)
    parser.add_argument("--last", type=int, default=2000)
    parser.add_argument("--novel-share", type=float, default=0.2)
    parser.add_argument("--cache", type=Path)
    arguments = parser.parse_args()
    data = read(arguments.images, arguments.weights, arguments.per_class, arguments.cache)
    data = (*data, out_of_fold.compress(data[1]))
    start = time.process_time()
    sizes = (arguments.first, arguments.step, arguments.last)
    curves = [run(data, seed, *sizes, arguments.novel_share) for seed in arguments.seeds]
    numbers = np.arange(arguments.first, arguments.last + 1, arguments.step)
    mean = {name: np.mean([curve[name] for curve in curves], axis=0) for name in curves[0]}
    shares = share_of_labels(numbers, mean["random"], mean["select"])
    print(
        json.dumps(
            {
                "images": len(data[0]),
                "labels": numbers.tolist(),
                **{name: np.round(values, 4).tolist() for name, values in mean.items()},
                "share": [share and round(share, 3) for share in shares],
                "share by seed": [
                    share_of_labels(numbers, np.array(curve["random"]), np.array(curve["select"]))[-1]
                    for curve in curves
                ],
                "cpu seconds": round(time.process_time() - start, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
