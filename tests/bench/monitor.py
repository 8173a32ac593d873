"""Drift monitoring: false alarms, and how often corruptions that cost five points of accuracy raise an alarm.

python tests/bench/monitor.py IMAGES WEIGHTS [--clean 200] [--trials 100] [--window 500] [--other PYTHON]

IMAGES holds one folder a class (CIFAR-10), WEIGHTS is a file of MobileNetV2. The model is a linear classifier on the
frozen backbone. Images are divided into a train part, the reference, images that choose the strength of a corruption,
and a pool from which windows are drawn without replacement. Every corruption has the strength that costs five points
of accuracy; the pool is embedded once for each. PYTHON is an interpreter with alibi-detect, which tests the
same windows. Prints one JSON object per line.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from sklearn.linear_model import LogisticRegression

from serving.monitor import drift
from trainer_module import embedding, image_statistics
from trainer_module.model_input import Geometry
from trainer_module.monitored import (
    MonitoredImages,
    MonitoredPredictions,
    TrainingImages,
    distances,
    stored_embeddings,
)

IMAGE_SIZE = 96
COST = 0.05
NUM_TRAIN, NUM_REFERENCE, NUM_SEARCH, NUM_POOL, NUM_CORRUPTED = 8_000, 2_000, 1_000, 5_000, 2_000
RATE, MIN_IMAGES = 0.01, 100

# Runs where alibi-detect is installed: its detectors on the same windows, the false-alarm rate divided among them.
# `all` is an alarm of any of them; the permutations of MMD are those that its level requires.
OTHER = """
import json, sys
import numpy as np
import alibi_detect
from alibi_detect.cd import ChiSquareDrift, KSDrift
data = np.load(sys.argv[1])
rate = float(sys.argv[2])
parts = {"inputs": KSDrift, "outputs": KSDrift, "confidence": KSDrift, "embeddings": KSDrift}
level = rate / (len(parts) + 1)
detectors = {name: kind(data["reference_" + name], p_val=level) for name, kind in parts.items()}
detectors["classes"] = ChiSquareDrift(data["reference_classes"], p_val=level)
counts = {name: 0 for name in [*detectors, "all"]}
for rows in data["windows"]:
    drift = {name: bool(each.predict(data["population_" + name][rows])["data"]["is_drift"])
             for name, each in detectors.items()}
    for name, value in drift.items():
        counts[name] += value
    counts["all"] += any(drift.values())
print(json.dumps({"version": alibi_detect.__version__, "alarms": counts.pop("all"), "by_kind": counts}))
"""

Corrupt = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def _blur(pixels: np.ndarray, strength: float, _: np.random.Generator) -> np.ndarray:
    return ndimage.gaussian_filter(pixels, (2.0 * strength, 2.0 * strength, 0.0), mode="nearest")


def _noise(pixels: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    return pixels + random.normal(0.0, 60.0 * strength, pixels.shape)


def _darken(pixels: np.ndarray, strength: float, _: np.random.Generator) -> np.ndarray:
    return pixels * (1.0 - strength)


def _jpeg(pixels: np.ndarray, strength: float, _: np.random.Generator) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=round(100 - 99 * strength))
    return np.asarray(Image.open(buffer), np.float32)


def _crop(pixels: np.ndarray, strength: float, _: np.random.Generator) -> np.ndarray:
    """Keeps the centre, in the size of the image."""
    height, width = pixels.shape[:2]
    inset_y, inset_x = 0.5 * strength * height * 0.9, 0.5 * strength * width * 0.9
    box = (inset_x, inset_y, width - inset_x, height - inset_y)
    image = Image.fromarray(pixels.astype(np.uint8))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box), np.float32)


def _rotate(pixels: np.ndarray, strength: float, _: np.random.Generator) -> np.ndarray:
    return ndimage.rotate(pixels, 90.0 * strength, reshape=False, order=1, mode="reflect")


def _color(pixels: np.ndarray, strength: float, _: np.random.Generator) -> np.ndarray:
    return pixels * np.array([1.0 + strength, 1.0, 1.0 - strength], np.float32)


def _resize(pixels: np.ndarray, strength: float, _: np.random.Generator) -> np.ndarray:
    """Reduces and enlarges with the nearest pixel, as a client without smoothing does."""
    height, width = pixels.shape[:2]
    small = (max(2, round(width * (1.0 - 0.9 * strength))), max(2, round(height * (1.0 - 0.9 * strength))))
    image = Image.fromarray(pixels.astype(np.uint8)).resize(small, Image.Resampling.NEAREST)
    return np.asarray(image.resize((width, height), Image.Resampling.NEAREST), np.float32)


CORRUPTIONS: dict[str, Corrupt] = {
    "blur": _blur,
    "noise": _noise,
    "darkening": _darken,
    "JPEG quality": _jpeg,
    "crop": _crop,
    "rotation": _rotate,
    "colour shift": _color,
    "different resize": _resize,
}


def corrupted(encoded: bytes, corrupt: Corrupt, strength: float, seed: int) -> bytes:
    """Corrupts an image file; the result is a PNG file."""
    pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"), np.float32)
    changed = np.clip(np.round(corrupt(pixels, strength, np.random.default_rng(seed))), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(changed).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class Part(NamedTuple):
    """Images with what is known about them."""

    files: list[bytes]
    labels: np.ndarray
    vectors: np.ndarray
    pixels: image_statistics.Measured

    def rows(self, chosen: np.ndarray) -> Part:
        """Returns some of the images."""
        files = [self.files[index] for index in chosen]
        pixels = image_statistics.Measured(*(values[chosen] for values in self.pixels))
        return Part(files, self.labels[chosen], self.vectors[chosen], pixels)


class Model:
    """A linear classifier on embeddings."""

    def __init__(self, train: Part, known: np.ndarray) -> None:
        """Fits the classifier to the images of the known classes."""
        rows = np.isin(train.labels, known)
        self.known = known
        self.classifier = LogisticRegression(C=1.0, max_iter=200).fit(train.vectors[rows], train.labels[rows])
        vectors = stored(train.vectors[rows][:NUM_REFERENCE])
        thumbnails = train.pixels.thumbnail[rows][:NUM_REFERENCE]
        self.training = TrainingImages(vectors, train.labels[rows][:NUM_REFERENCE], thumbnails)

    def accuracy(self, part: Part) -> float:
        """Returns the share of correct predictions; images of unknown classes are errors."""
        return float((self.classifier.predict(part.vectors) == part.labels).mean())

    def monitored(self, part: Part) -> MonitoredImages:
        """Returns what monitoring sees."""
        scores = self.classifier.predict_proba(part.vectors).astype(np.float32)
        vectors = stored(part.vectors)
        correct = self.classifier.predict(part.vectors) == part.labels
        return MonitoredImages(
            part.pixels.statistics,
            vectors,
            MonitoredPredictions(scores, scores.argmax(axis=1), scores.max(axis=1)),
            correct.astype(np.float32),
            [()] * len(part.labels),
            distances(vectors, part.pixels.thumbnail, self.training),
        )


def stored(vectors: np.ndarray) -> np.ndarray:
    """Returns embeddings as a reference stores them."""
    return stored_embeddings(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def rows_of(images: MonitoredImages, chosen: np.ndarray) -> MonitoredImages:
    """Returns some of the images, without feedback."""
    assert images.statistics is not None and images.embeddings is not None and images.predictions.confidence is not None
    predictions = MonitoredPredictions(
        images.predictions.scores[chosen], images.predictions.class_ids[chosen], images.predictions.confidence[chosen]
    )
    unknown = np.full(len(chosen), np.nan, np.float32)
    far = None if images.distances is None else images.distances[chosen]
    return MonitoredImages(
        images.statistics[chosen], images.embeddings[chosen], predictions, unknown, [()] * len(chosen), far
    )


def read(folder: Path, embed: embedding.Embed, num: int) -> tuple[list[str], Part]:
    """Reads and embeds a random part of the images."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    paths = sorted(path for name in classes for path in (folder / name).iterdir())
    chosen = [paths[index] for index in np.random.default_rng(0).permutation(len(paths))[:num]]
    files = [path.read_bytes() for path in chosen]
    labels = np.array([classes.index(path.parent.name) for path in chosen])
    return classes, measured(files, labels, embed)


def measured(files: list[bytes], labels: np.ndarray, embed: embedding.Embed) -> Part:
    """Embeds and measures image files."""
    return Part(files, labels, embedding.embed_all(embed, files), image_statistics.measure_all(files))


def strength_of(corrupt: Corrupt, model: Model, part: Part, embed: embedding.Embed) -> float:
    """Finds the strength that costs `COST` of accuracy, by bisection."""
    before, low, high = model.accuracy(part), 0.0, 1.0
    for _ in range(7):
        middle = (low + high) / 2
        files = [corrupted(file, corrupt, middle, index) for index, file in enumerate(part.files)]
        changed = part._replace(files=files, vectors=embedding.embed_all(embed, files))
        low, high = (middle, high) if before - model.accuracy(changed) < COST else (low, middle)
    return high


def class_shares(model: Model, part: Part) -> np.ndarray:
    """Returns class shares, tilted towards the classes that are often wrong, with which accuracy is `COST` lower."""
    ids = np.arange(part.labels.max() + 1)
    by_class = np.array([model.accuracy(part.rows(np.flatnonzero(part.labels == each))) for each in ids])
    before, low, high = model.accuracy(part), 0.0, 100.0
    for _ in range(40):
        middle = (low + high) / 2
        shares = np.exp(-middle * by_class)
        shares /= shares.sum()
        low, high = (middle, high) if before - shares @ by_class < COST else (low, middle)
    return shares


class Trial(NamedTuple):
    """A model, its reference and a population from which windows are drawn.

    Attributes:
      name: Of the population.
      classes: Class names of the model.
      reference: The reference.
      population: The images.
      shares: Probability of every image; None if all are equal.
      details: Strength and accuracy.
    """

    name: str
    classes: list[str]
    reference: MonitoredImages
    population: MonitoredImages
    shares: np.ndarray | None
    details: dict[str, float]

    def windows(self, num: int, size: int) -> list[np.ndarray]:
        """Draws the images of windows, each without replacement."""
        random = np.random.default_rng(5)
        return [random.choice(len(self.population), size, replace=False, p=self.shares) for _ in range(num)]


def trials(images: Path, weights: str) -> Iterator[Trial]:
    """Yields the clean population first, then one per corruption."""
    embed = embedding.from_backbone("mobilenet_v2", weights=weights, geometry=Geometry.of(IMAGE_SIZE))
    total = NUM_TRAIN + NUM_REFERENCE + NUM_SEARCH + NUM_POOL
    classes, everything = read(images, embed, total)
    ends = np.cumsum([NUM_TRAIN, NUM_REFERENCE, NUM_SEARCH, NUM_POOL])
    train, known, search, pool = (
        everything.rows(np.arange(end - size, end))
        for end, size in zip(ends, (NUM_TRAIN, NUM_REFERENCE, NUM_SEARCH, NUM_POOL), strict=True)
    )
    ids = np.arange(len(classes))
    model = Model(train, ids)
    reference, clean = model.monitored(known), model.accuracy(pool)
    yield Trial("clean", classes, reference, model.monitored(pool), None, {"accuracy": clean})
    for name, corrupt in CORRUPTIONS.items():
        strength = strength_of(corrupt, model, search, embed)
        part = pool.rows(np.arange(NUM_CORRUPTED))
        files = [corrupted(file, corrupt, strength, index) for index, file in enumerate(part.files)]
        part = measured(files, part.labels, embed)
        details = {"strength": strength, "accuracy": model.accuracy(part)}
        yield Trial(name, classes, reference, model.monitored(part), None, details)
    shares = class_shares(model, search)
    by_image = (shares / np.bincount(pool.labels, minlength=len(classes)))[pool.labels]
    details = {"accuracy": float(by_image @ model.monitored(pool).quality), "largest_share": float(shares.max())}
    yield Trial("class balance", classes, reference, model.monitored(pool), by_image / by_image.sum(), details)
    # Every class in turn is unknown: how similar it is to the others differs.
    for unknown in ids:
        others = np.delete(ids, unknown)
        model = Model(train, others)
        rows = np.isin(known.labels, others)
        is_unknown = pool.labels == unknown
        accuracy = model.accuracy(pool.rows(np.flatnonzero(~is_unknown)))
        share = COST / accuracy
        by_image = np.where(is_unknown, share / is_unknown.sum(), (1.0 - share) / (~is_unknown).sum())
        yield Trial(
            f"unknown class: {classes[unknown]}",
            [classes[each] for each in others],
            model.monitored(known.rows(np.flatnonzero(rows))),
            model.monitored(pool),
            by_image,
            {"share": share, "accuracy": accuracy * (1.0 - share)},
        )


def alarms(trial: Trial, windows: list[np.ndarray]) -> list[dict[str, float]]:
    """Returns the smallest corrected p-value of every kind, by window."""
    results = []
    for seed, rows in enumerate(windows):
        window = rows_of(trial.population, rows)
        tests = drift.correct(drift.compare(trial.reference, window, trial.classes, RATE, MIN_IMAGES, seed).tests, RATE)
        smallest: dict[str, float] = {}
        for test in tests:
            smallest[test.kind] = min(smallest.get(test.kind, 1.0), test.adjusted_p_value)
        results.append(smallest)
    return results


def other_alarms(python: str, trial: Trial, windows: list[np.ndarray]) -> dict[str, object]:
    """Counts the alarms of alibi-detect."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        arrays = {"windows": np.array(windows)}
        for side, images in (("reference", trial.reference), ("population", trial.population)):
            assert images.predictions.confidence is not None
            arrays |= {
                f"{side}_inputs": images.statistics,
                f"{side}_embeddings": images.embeddings,
                f"{side}_outputs": images.predictions.scores,
                f"{side}_confidence": images.predictions.confidence[:, np.newaxis],
                f"{side}_classes": images.predictions.class_ids[:, np.newaxis],
            }
        np.savez(path, **arrays)
        command = [python, "-c", OTHER, str(path), str(RATE)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def summary(trial: Trial, results: list[dict[str, float]]) -> dict[str, object]:
    """Counts alarms, in total and by kind."""
    kinds = results[0].keys()
    return {
        "name": trial.name,
        **{name: round(value, 4) for name, value in trial.details.items()},
        "windows": len(results),
        "alarms": sum(min(each.values()) <= RATE for each in results),
        "by_kind": {kind: sum(each[kind] <= RATE for each in results) for kind in kinds},
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--clean", type=int, default=200)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--window", type=int, default=500)
    parser.add_argument("--other", help="an interpreter with alibi-detect")
    arguments = parser.parse_args()
    for trial in trials(arguments.images, arguments.weights):
        num = arguments.clean if trial.name == "clean" else arguments.trials
        start = time.process_time()
        windows = trial.windows(num, arguments.window)
        results = alarms(trial, windows)
        report = summary(trial, results) | {"seconds_per_window": round((time.process_time() - start) / num, 3)}
        if arguments.other:
            report["alibi-detect"] = other_alarms(arguments.other, trial, windows)
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
