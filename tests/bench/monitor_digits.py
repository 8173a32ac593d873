"""Drift monitoring on handwritten digits: false alarms, corruptions, unknown classes; evidently on the same windows.

python tests/bench/monitor_digits.py [--trials 40] [--unknown 0 1 2 3 4 5 6 7 8 9] [--evidently PYTHON]

800 of scikit-learn's 1,797 digits train the network of the preset `digits`. Of the others, every trial draws a new
reference of 400 images and a window of 480: without drift, with a corruption of `monitor.py`, or with a digit that the
network was not trained on. Strengths and shares cost five points of accuracy. PYTHON is an interpreter with evidently
(`pip install evidently "pandas<3"` in an environment of its own), by default this one; without evidently the comparison
is skipped. Prints one JSON object per population and line: windows with an alarm, in total and by test.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from monitor import CORRUPTIONS, COST, MIN_IMAGES, RATE, Corrupt, rows_of, stored
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from pipeline.config import loading
from serving.monitor import drift
from trainer_module import features, image_statistics
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.monitored import MonitoredImages, MonitoredPredictions, TrainingImages, distances
from trainer_module.network import build
from trainer_module.options import TrainerOptions

NUM_TRAIN, NUM_REFERENCE, WINDOW, EPOCHS = 800, 400, 480, 25
ALL_DIGITS = range(10)

# Runs where evidently is installed. Its tests of every column, by default at 5 %, and three alarms: that of its preset
# (at least half of the columns drift), any column, and any column at 1 % divided by the number of columns. A report
# takes a tenth of a second per column, so that the 128 dimensions of the embeddings are left out.
EVIDENTLY = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import numpy as np, pandas as pd
import evidently
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset
data, rate = np.load(sys.argv[1]), float(sys.argv[2])
def frame(side, rows):
    columns = {}
    for kind in ("inputs", "outputs", "confidence"):
        values = data[f"{side}_{kind}"][rows]
        columns |= {f"{kind}_{index}": values[:, index] for index in range(values.shape[1])}
    columns["classes"] = data[f"{side}_classes"][rows].astype(str)
    return pd.DataFrame(columns)
constant = [name for name, values in frame("clean", slice(None)).items() if values.nunique() < 2]
counts = {"preset": 0, "any column": 0, "any column, corrected": 0}
for reference, window in zip(data["references"], data["windows"]):
    first, second = (each.drop(columns=constant) for each in (frame("clean", reference), frame("population", window)))
    numeric = [name for name in first if name != "classes"]
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=["classes"])
    sides = [Dataset.from_pandas(each, data_definition=definition) for each in (second, first)]
    metrics = Report([DataDriftPreset()]).run(*sides).dict()["metrics"]
    p_values = [float(each["value"]) for each in metrics if each["metric_name"].startswith("ValueDrift")]
    assert len(p_values) == first.shape[1], metrics[0]
    assert all("p_value" in each["metric_name"] for each in metrics if each["metric_name"].startswith("ValueDrift"))
    share = next(each["value"]["share"] for each in metrics if "DriftedColumnsCount" in each["metric_name"])
    counts["preset"] += share >= 0.5
    counts["any column"] += min(p_values) < 0.05
    counts["any column, corrected"] += min(p_values) <= rate / len(p_values)
print(json.dumps({"version": evidently.__version__, **counts}))
"""


class Digits(NamedTuple):
    """All digits in a random order, the first ones for the training: uint8 [N, 8, 8], and int [N]."""

    pixels: np.ndarray
    labels: np.ndarray


class Population(NamedTuple):
    """Images from which windows are drawn.

    Attributes:
      name: Of the population.
      classes: Class names of the network.
      clean: All digits without corruption.
      images: All digits.
      references: int [T, 400], the images of a reference, of `clean`.
      windows: int [T, 480], the images of a window, of `images`.
      details: Accuracy, and strength or share.
    """

    name: str
    classes: list[str]
    clean: MonitoredImages
    images: MonitoredImages
    references: np.ndarray
    windows: np.ndarray
    details: dict[str, float]


def read() -> Digits:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    return Digits(np.round(digits.images[order] * 255 / 16).astype(np.uint8), digits.target[order])


class Network:
    """The network of the preset, trained on some of the digits."""

    def __init__(self, digits: Digits, known: Sequence[int]) -> None:
        """Trains it."""
        self.digits, self.known = digits, np.array(known)
        config = loading.load("digits", needs_data=False)
        options = TrainerOptions(
            classes=tuple(map(str, known)), transform=config.transform, model=config.model, task=config.task
        )
        rows = np.flatnonzero(np.isin(digits.labels[:NUM_TRAIN], known))
        pixels, ids = _enlarged(digits.pixels[rows]), np.searchsorted(known, digits.labels[rows])
        keras.utils.set_random_seed(3)
        statistics = PixelStatistics(np.array([pixels.mean()], np.float32), np.array([pixels.std()], np.float32))
        self._network = build(options, statistics)
        moved = keras.Sequential(
            [
                keras.layers.RandomRotation(0.03),
                keras.layers.RandomZoom(0.1),
                keras.layers.RandomTranslation(0.08, 0.08),
            ]
        )
        inputs = keras.Input(self._network.input.shape[1:])
        trained = keras.Model(inputs, self._network(moved(inputs)))
        trained.compile(keras.optimizers.Adam(2e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        trained.fit(pixels, ids, batch_size=32, epochs=EPOCHS, verbose=0)
        layer = self._network.get_layer(features.EMBEDDING_LAYER)
        self._both = keras.Model(self._network.inputs, [self._network.output, layer.output])
        thumbnails = image_statistics.measure_all(map(_png, digits.pixels[rows])).thumbnail
        self._training = TrainingImages(self._outputs(digits.pixels[rows])[1], ids, thumbnails)

    def _outputs(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns probabilities and embeddings."""
        logits, vectors = self._both.predict(_enlarged(pixels), batch_size=256, verbose=0)
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32), stored(vectors)

    def monitored(self, pixels: np.ndarray) -> MonitoredImages:
        """Returns what monitoring sees of all digits; the quality is that of the predictions."""
        scores, vectors = self._outputs(pixels)
        ids = scores.argmax(axis=1)
        correct = (self.known[ids] == self.digits.labels).astype(np.float32)
        measured = image_statistics.measure_all(map(_png, pixels))
        return MonitoredImages(
            measured.statistics,
            vectors,
            MonitoredPredictions(scores, ids, scores.max(axis=1)),
            correct,
            [()] * len(scores),
            distances(vectors, measured.thumbnail, self._training),
        )

    def accuracy(self, pixels: np.ndarray) -> float:
        """Returns the accuracy on the images that do not train."""
        scores, _ = self._outputs(pixels[NUM_TRAIN:])
        return float((self.known[scores.argmax(axis=1)] == self.digits.labels[NUM_TRAIN:]).mean())


def _enlarged(pixels: np.ndarray) -> np.ndarray:
    """Returns the images in the size of the preset, 16 pixels."""
    return pixels.repeat(2, axis=1).repeat(2, axis=2)[..., np.newaxis].astype(np.float32)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def corrupted(pixels: np.ndarray, corrupt: Corrupt, strength: float) -> np.ndarray:
    """Corrupts grey images, uint8 [N, 8, 8]."""
    changed = [
        corrupt(np.repeat(image[..., np.newaxis], 3, axis=2).astype(np.float32), strength, np.random.default_rng(index))
        for index, image in enumerate(pixels)
    ]
    return np.clip(np.round(np.stack(changed).mean(axis=3)), 0, 255).astype(np.uint8)


def strength_of(network: Network, corrupt: Corrupt) -> float:
    """Finds the strength that costs `COST` of accuracy, by bisection."""
    pixels, low, high = network.digits.pixels, 0.0, 1.0
    before = network.accuracy(pixels)
    for _ in range(7):
        middle = (low + high) / 2
        cost = before - network.accuracy(corrupted(pixels, corrupt, middle))
        low, high = (middle, high) if cost < COST else (low, middle)
    return high


def populations(digits: Digits, unknown: Sequence[int], num_trials: int) -> Iterator[Population]:
    """Yields clean images first, then corruptions, then unknown digits."""
    network, classes = Network(digits, ALL_DIGITS), list(map(str, ALL_DIGITS))
    clean = network.monitored(digits.pixels)
    test = np.arange(NUM_TRAIN, len(digits.labels))
    orders = np.stack([np.random.default_rng(seed).permutation(test) for seed in range(num_trials)])
    references, windows = orders[:, :NUM_REFERENCE], orders[:, NUM_REFERENCE:][:, :WINDOW]
    accuracy = {"accuracy": network.accuracy(digits.pixels)}
    yield Population("clean", classes, clean, clean, references, windows, accuracy)
    for name, corrupt in CORRUPTIONS.items():
        if name == "colour shift":  # the digits are grey
            continue
        strength = strength_of(network, corrupt)
        changed = corrupted(digits.pixels, corrupt, strength)
        details = {"strength": strength, "accuracy": network.accuracy(changed)}
        yield Population(name, classes, clean, network.monitored(changed), references, windows, details)
    for digit in unknown:
        yield from _with_unknown(Network(digits, [each for each in ALL_DIGITS if each != digit]), digit, num_trials)


def _with_unknown(network: Network, unknown: int, num_trials: int) -> Iterator[Population]:
    """Yields windows of a network that does not know a digit: first without the digit, then with it."""
    images, labels = network.monitored(network.digits.pixels), network.digits.labels
    test = np.arange(NUM_TRAIN, len(labels))
    known, new = test[labels[test] != unknown], test[labels[test] == unknown]
    share = COST / float(images.quality[known].mean())
    references, clean, mixed = [], [], []
    for seed in range(num_trials):
        random = np.random.default_rng(seed)
        order = random.permutation(known)
        drawn = random.choice(new, random.binomial(WINDOW, share), replace=False)
        references.append(order[:NUM_REFERENCE])
        clean.append(order[NUM_REFERENCE:][:WINDOW])
        mixed.append(np.concatenate([order[NUM_REFERENCE:][: WINDOW - len(drawn)], drawn]))
    assert images.distances is not None and images.predictions.confidence is not None
    separated = {
        f"roc_auc_{name}": float(roc_auc_score(labels[test] == unknown, values[test]))
        for name, values in (
            ("distance", images.distances.prod(axis=1)),
            ("distance_of_embeddings", images.distances[:, 0]),
            ("distance_of_thumbnails", images.distances[:, 1]),
            ("confidence", -images.predictions.confidence),
        )
    }
    names, classes = (f"without {unknown}", f"unknown class {unknown}"), [str(each) for each in network.known]
    for name, windows, details in zip(names, (clean, mixed), ({}, {"share": share, **separated}), strict=True):
        yield Population(name, classes, images, images, np.array(references), np.array(windows), details)


def alarms(population: Population) -> dict[str, object]:
    """Counts windows with an alarm: in total, by test, without thumbnails, and without the test of distances."""
    counts, embeddings_only, without = Counter({"alarms": 0}), 0, 0
    for seed, (first, second) in enumerate(zip(population.references, population.windows, strict=True)):
        sides = rows_of(population.clean, first), rows_of(population.images, second)
        tests = drift.compare(*sides, population.classes, RATE, MIN_IMAGES, seed).tests
        drifted = [test for test in drift.correct(tests, RATE) if test.drift]
        counts["alarms"] += bool(drifted)
        counts.update({test.name if test.name.startswith("distance") else test.kind for test in drifted})
        others = [test for test in tests if not test.name.startswith("distance")]
        without += any(test.drift for test in drift.correct(others, RATE))
        sides = tuple(replace(side, distances=_without_thumbnails(side.distances)) for side in sides)
        tests = drift.compare(*sides, population.classes, RATE, MIN_IMAGES, seed).tests
        embeddings_only += any(test.drift for test in drift.correct(tests, RATE))
    return {**counts, "alarms_without_thumbnails": embeddings_only, "alarms_without_distances": without}


def _without_thumbnails(distances: np.ndarray | None) -> np.ndarray:
    assert distances is not None
    return np.column_stack([distances[:, 0], np.full(len(distances), np.nan)])


def evidently_alarms(python: str, population: Population) -> dict[str, object]:
    """Counts windows with an alarm of evidently."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        arrays = {"references": population.references, "windows": population.windows}
        for side, images in (("clean", population.clean), ("population", population.images)):
            assert images.statistics is not None and images.predictions.confidence is not None
            arrays |= {
                f"{side}_inputs": images.statistics,
                f"{side}_outputs": images.predictions.scores,
                f"{side}_confidence": images.predictions.confidence[:, np.newaxis],
                f"{side}_classes": images.predictions.class_ids,
            }
        np.savez(path, **arrays)
        done = subprocess.run(
            [python, "-c", EVIDENTLY, str(path), str(RATE)], stdout=subprocess.PIPE, text=True, check=True
        )
    result: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def has_evidently(python: str) -> bool:
    """Whether an interpreter has evidently; prints why not."""
    done = subprocess.run([python, "-c", "import evidently.presets"], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it ended with an error"
        print(
            f"{python} has no evidently ({reason}): not compared. Install evidently and pandas<3 in an environment of "
            "its own, and give its interpreter with --evidently.",
            file=sys.stderr,
        )
    return not done.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--unknown", type=int, nargs="*", default=list(ALL_DIGITS))
    parser.add_argument("--evidently", default=sys.executable, metavar="PYTHON")
    options = parser.parse_args()
    compares = has_evidently(options.evidently)
    for population in populations(read(), options.unknown, options.trials):
        print(
            json.dumps(
                {
                    "name": population.name,
                    "windows": options.trials,
                    **{name: round(value, 4) for name, value in population.details.items()},
                    **alarms(population),
                    **({"evidently": evidently_alarms(options.evidently, population)} if compares else {}),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
