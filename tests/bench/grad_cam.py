"""Grad-CAM, pictures a second: ours, the textbook's loop, the libraries tf-keras-vis and xplique, and predicting alone.

python tests/bench/grad_cam.py [--weights mobilenet_v2.h5] [--rounds 3] [--model scratch_cnn] ...

All explain the predicted class of the same random pictures on the same model: the default `scratch_cnn` at 32 pixels,
and MobileNetV2 at 224 with a head of ten classes (random weights where none are given); `unet` at 128 is compared with
predicting alone. The ways take turns, and of each the fastest round counts. The textbook is the tutorial's: a model of
the feature map and the output for every picture, and an eager tape through all of it. A library that is not installed
is left out, and said so. They are put beside the project's environment, in a folder of their own; xplique asks for an
older TensorFlow and runs with this:

uv pip install --python .venv/bin/python --target LIBRARIES --no-deps tf-keras-vis xplique deprecated einops imageio \
  opencv-python-headless scikit-image lazy-loader tifffile networkx tensorflow-probability tf-keras dm-tree
PYTHONPATH=LIBRARIES .venv/bin/python tests/bench/grad_cam.py

With the same PYTHONPATH `pytest tests/unit/test_grad_cam.py -k agrees` holds our maps against theirs. Prints one JSON
object a model.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer_module import features, grad_cam, overlays, tasks
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.options import TrainerOptions

# Side, pictures that are explained in batches, pictures a batch, pictures of the textbook's loop. Of masks there is
# nothing to compare with.
SIZES = {"scratch_cnn": (32, 1024, 256, 12), "mobilenet_v2": (224, 64, 32, 4), "unet": (128, 32, 16, 0)}


def build(name: str, weights: str) -> keras.Model:
    """The network, untrained but for a backbone's weights."""
    if name != "mobilenet_v2":
        said: dict[str, Any] = {"model": {"name": name}, "transform": {"image_size": SIZES[name][0]}}
    else:
        said = {
            "model": {"name": "transfer", "backbone": name, "weights": weights},
            "transform": {"image_size": 224, "normalization": "backbone"},
        }
    keras.utils.set_random_seed(3)
    options = TrainerOptions(classes=tuple("abcdefghij"), **said)
    return tasks.of(options).build_model(options, PixelStatistics(np.full(3, 120.0, "f"), np.full(3, 4000.0, "f")))


def textbook(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The tutorial's loop."""
    found = []
    for image in images:
        inner = keras.Model(model.input, [model.get_layer(features.FEATURES_LAYER).output, model.output])
        with tf.GradientTape() as tape:
            maps, logits = inner(image[np.newaxis], training=False)
            score = logits[:, tf.argmax(logits[0])]
        weights = tf.reduce_mean(tape.gradient(score, maps), axis=(0, 1, 2))
        heat = tf.nn.relu(tf.squeeze(maps[0] @ weights[..., tf.newaxis], -1))
        heat = tf.image.resize(heat[tf.newaxis, ..., tf.newaxis], image.shape[:2])[0, ..., 0]
        found.append((heat / (tf.reduce_max(heat) + 1e-12)).numpy())
    return np.stack(found)


def libraries(model: keras.Model, class_ids: np.ndarray) -> dict[str, Callable[..., np.ndarray]]:
    """Those that are installed: (pictures, index of the first) → maps."""
    found: dict[str, Callable[..., np.ndarray]] = {}
    try:
        from tf_keras_vis.gradcam import Gradcam

        visual = Gradcam(model, clone=False)

        def by_tf_keras_vis(images: np.ndarray, start: int, **said: bool) -> np.ndarray:
            ids = class_ids[start : start + len(images)]
            return visual(
                lambda logits: tf.gather(logits, ids, batch_dims=1),
                images,
                penultimate_layer=features.FEATURES_LAYER,
                seek_penultimate_conv_layer=False,
                **said,
            )

        found["tf-keras-vis"] = by_tf_keras_vis
    except ImportError as error:
        print(f"tf-keras-vis is left out: {error}", flush=True)
    try:
        from xplique.attributions import GradCAM

        attribution = GradCAM(model, batch_size=None, conv_layer=features.FEATURES_LAYER)

        def by_xplique(images: np.ndarray, start: int) -> np.ndarray:
            targets = np.eye(10, dtype=np.float32)[class_ids[start : start + len(images)]]
            return np.asarray(attribution(images, targets))

        found["xplique"] = by_xplique
    except ImportError as error:
        print(f"xplique is left out: {error}", flush=True)
    return found


def measure(name: str, weights: str, rounds: int) -> dict[str, Any]:
    """Every way in turn."""
    side, count, batch_size, few = SIZES[name]
    model = build(name, weights)
    images = np.random.default_rng(1).integers(0, 256, (count, side, side, 3)).astype(np.float32)
    explain = grad_cam.explainer(model)
    predict = tf.function(lambda images: tf.nn.softmax(model(images, training=False)))
    colors = overlays.color_table("jet")
    starts = range(0, count, batch_size)
    class_ids = np.concatenate([predict(images[i : i + batch_size]).numpy().argmax(axis=-1) for i in starts])

    @tf.function
    def drawn(images: tf.Tensor) -> tf.Tensor:
        blended = overlays.overlay(images, explain(images).heatmap, colors, alpha=0.4)
        return overlays.encode_png(blended, overlays.QUICK)

    ways: dict[str, tuple[int, Callable[..., np.ndarray]]] = {
        "predict": (count, lambda images, start: predict(images).numpy()),
        "ours": (count, lambda images, start: explain(images).heatmap.numpy()),
        "ours, with overlays as PNG": (count, lambda images, start: drawn(images).numpy()),
    }
    if few:
        ways["textbook"] = few, lambda images, start: textbook(model, images)
        ways |= {library: (count, way) for library, way in libraries(model, class_ids).items()}
    maps: dict[str, np.ndarray] = {}
    best = dict.fromkeys(ways, math.inf)
    for turn in range(rounds + 1):  # the first one compiles
        for way, (num, run) in ways.items():
            start = time.perf_counter()
            found = [run(images[i : min(i + batch_size, num)], i) for i in range(0, num, batch_size)]
            if turn:
                best[way] = min(best[way], (time.perf_counter() - start) / num)
            maps[way] = np.concatenate(found)
    if "tf-keras-vis" in ways:
        # It puts corner upon corner when it enlarges, all others the middle of a position upon that of its square.
        num, run = ways["tf-keras-vis"]
        small = [run(images[i : i + batch_size], i, expand_cam=False) for i in range(0, num, batch_size)]
        maps["tf-keras-vis"] = tf.image.resize(np.concatenate(small)[..., np.newaxis], [side, side])[..., 0].numpy()
    agreement = {}
    for way in ways:
        if "ours" not in way and way != "predict":
            pairs = zip(maps["ours"], maps[way], strict=False)
            agreement[way] = round(min(float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in pairs), 5)
    known = [way for way in ("tf-keras-vis", "xplique") if way in ways]
    return {
        "model": name,
        "side": side,
        "pictures_a_second": {way: round(1 / seconds, 1) for way, seconds in best.items()},
        "ours_to_textbook": round(best["textbook"] / best["ours"], 1) if few else None,
        "ours_to_best_library": round(min(best[way] for way in known) / best["ours"], 2) if known else None,
        "explaining_to_predicting": round(best["ours"] / best["predict"], 2),
        "lowest_correlation_of_a_map": agreement,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=SIZES, action="append")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.model or SIZES:
        print(json.dumps(measure(name, arguments.weights, arguments.rounds)), flush=True)


if __name__ == "__main__":
    main()
