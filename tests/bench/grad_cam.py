"""Grad-CAM, images a second: ours, the textbook's loop, the libraries tf-keras-vis and xplique, and predicting alone.

python tests/bench/grad_cam.py [--weights mobilenet_v2.h5] [--rounds 3] [--model scratch_cnn] ...

All explain the predicted class of the same random images on the same model: the default `scratch_cnn` at 32 pixels,
and MobileNetV2 at 224 with a head of ten classes (random weights where none are given); `unet` at 128 is compared with
predicting alone. The ways take turns, and of each the fastest round counts. The textbook is the tutorial's: a model of
the feature map and the output for every image, and an eager tape through all of it. A library that is not installed
is skipped with a note. They are put beside the project's environment, in a folder of their own; xplique asks for an
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
from trainer_module.fused_normalization import fused
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.network import build as build_network
from trainer_module.options import TrainerOptions

# Side, images that are explained in batches, images a batch, images of the textbook's loop. Of masks there is
# nothing to compare with.
SIZES = {"scratch_cnn": (32, 512, 128, 12), "mobilenet_v2": (224, 32, 32, 4), "unet": (128, 32, 16, 0)}
TASKS = {"scratch_cnn": "classification", "mobilenet_v2": "classification", "unet": "segmentation"}


SMALL = "tf-keras-vis, small"

Way = Callable[[np.ndarray], np.ndarray]  # images → what is made of them


def build(name: str, weights: str) -> keras.Model:
    """The network, untrained but for a backbone's weights."""
    if name != "mobilenet_v2":
        sections: dict[str, Any] = {"model": {"name": name}, "transform": {"image_size": SIZES[name][0]}}
    else:
        sections = {
            "model": {"name": "transfer", "backbone": name, "weights": weights},
            "transform": {"image_size": 224, "normalization": "backbone"},
        }
    keras.utils.set_random_seed(3)
    options = TrainerOptions(classes=tuple("abcdefghij"), task={"name": TASKS[name]}, **sections)
    return build_network(options, PixelStatistics(np.full(3, 120.0, "f"), np.full(3, 4000.0, "f")))


def textbook(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The tutorial's loop."""
    heat_maps = []
    for image in images:
        inner = keras.Model(model.input, [model.get_layer(features.FEATURES_LAYER).output, model.output])
        with tf.GradientTape() as tape:
            maps, logits = inner(image[np.newaxis], training=False)
            score = logits[:, tf.argmax(logits[0])]
        weights = tf.reduce_mean(tape.gradient(score, maps), axis=(0, 1, 2))
        heat = tf.nn.relu(tf.squeeze(maps[0] @ weights[..., tf.newaxis], -1))
        heat = tf.image.resize(heat[tf.newaxis, ..., tf.newaxis], image.shape[:2])[0, ..., 0]
        heat_maps.append((heat / (tf.reduce_max(heat) + 1e-12)).numpy())
    return np.stack(heat_maps)


def libraries(model: keras.Model, class_ids: np.ndarray, batch_size: int) -> dict[str, Way]:
    """Returns the installed libraries; for tf-keras-vis also, without timing, the maps before they are enlarged."""
    methods: dict[str, Way] = {}
    try:
        from tf_keras_vis.gradcam import Gradcam

        visual = Gradcam(model, clone=False)

        def by_tf_keras_vis(images: np.ndarray, **sections: bool) -> np.ndarray:
            maps = []
            for start in range(0, len(images), batch_size):
                ids = class_ids[start : start + batch_size]
                maps.append(
                    visual(
                        lambda logits, ids=ids: tf.gather(logits, ids, batch_dims=1),
                        images[start : start + batch_size],
                        penultimate_layer=features.FEATURES_LAYER,
                        seek_penultimate_conv_layer=False,
                        **sections,
                    )
                )
            return np.concatenate(maps)

        methods["tf-keras-vis"] = by_tf_keras_vis
        methods[SMALL] = lambda images: by_tf_keras_vis(images, expand_cam=False)
    except ImportError as error:
        print(f"tf-keras-vis is left out: {error}", flush=True)
    try:
        from xplique.attributions import GradCAM

        attribution = GradCAM(model, batch_size=batch_size, conv_layer=features.FEATURES_LAYER)
        targets = np.eye(10, dtype=np.float32)[class_ids]
        methods["xplique"] = lambda images: np.asarray(attribution(images, targets))
    except ImportError as error:
        print(f"xplique is left out: {error}", flush=True)
    return methods


def measure(name: str, weights: str, rounds: int) -> dict[str, Any]:
    """Every way in turn."""
    side, count, batch_size, few = SIZES[name]
    model = build(name, weights)
    images = np.random.default_rng(1).integers(0, 256, (count, side, side, 3)).astype(np.float32)
    explain = grad_cam.explainer(model, tasks.get(TASKS[name]).explanation)

    @tf.function
    def predict(images: tf.Tensor) -> tf.Tensor:
        with fused(model):  # as it is exported
            return tf.nn.softmax(model(images, training=False))

    colors = overlays.color_table("jet")

    @tf.function
    def drawn(images: tf.Tensor) -> tf.Tensor:
        def draw(one: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            blended = overlays.blend(tf.cast(one[0], tf.uint8), one[1], colors, alpha=0.4)
            return tf.io.encode_png(blended, compression=overlays.FAST_COMPRESSION)

        return tf.map_fn(draw, (images, explain(images).heatmap), fn_output_signature=tf.TensorSpec([], tf.string))

    def batched(compute: Callable[[np.ndarray], tf.Tensor]) -> Way:
        starts = range(0, count, batch_size)
        return lambda images: np.concatenate([compute(images[i : i + batch_size]).numpy() for i in starts])

    ways = {
        "predict": batched(predict),
        "ours": batched(lambda images: explain(images).heatmap),
        "ours, with overlays as PNG": batched(drawn),
    }
    agreement, unmeasured = {}, {}
    if few:
        ways["textbook"] = lambda images: textbook(model, images[:few])
        ways |= libraries(model, ways["predict"](images).argmax(axis=-1), batch_size)
        # It puts corner upon corner when it enlarges; ours, as TensorFlow, the middle of a position upon its square's.
        unmeasured = {"tf-keras-vis": ways.pop(SMALL)} if SMALL in ways else {}
        ours = ways["ours"](images)
        for way in (way for way in ("textbook", "tf-keras-vis", "xplique") if way in ways):
            maps = unmeasured.get(way, ways[way])(images)
            if way in unmeasured:
                maps = tf.image.resize(maps[..., np.newaxis], [side, side])[..., 0].numpy()
            pairs = zip(ours, maps, strict=False)
            agreement[way] = round(min(float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in pairs), 5)
    best = dict.fromkeys(ways, math.inf)
    for turn in range(rounds + 1):  # the first one compiles
        for way, run in ways.items():
            start = time.perf_counter()
            run(images)
            seconds = time.perf_counter() - start
            if turn:
                best[way] = min(best[way], seconds / (few if way == "textbook" else count))
    known = [way for way in ("tf-keras-vis", "xplique") if way in ways]
    return {
        "model": name,
        "side": side,
        "images_a_second": {way: round(1 / seconds, 1) for way, seconds in best.items()},
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
