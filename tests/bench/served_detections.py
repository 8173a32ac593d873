"""Detections over gRPC compared with those of the Keras model, and throughput of the server and of the bare model.

python tests/bench/served_detections.py IMAGES --model FILE.keras [--preset bccd] [--set transform.image_size=320]

FILE is a trained detector, as `detection.py --keep` stores it. It is exported as Trainer exports it, and served by the
local server. Every image is sent over gRPC, and the response is compared with the Keras model's detections for the same
file: the largest difference of a score or a coordinate is printed, and images with another number of detections are
counted. Then `serving_speed.py` measures requests per second, the bare signature and the server in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import serving_speed
import suppression
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from trainer_module import export, features

_BATCH_SIZE = 16
_TOLERANCE = 1e-4


class _TransformLayer(tf.Module):
    """Stands in for the transform graph, which predictions do not use."""

    def __call__(self, raw: dict[str, Any]) -> dict[str, Any]:
        return {features.LABEL: tf.zeros([tf.size(raw[features.IMAGE_HEIGHT]), 6])}


def ask(call: Any, image_bytes: list[bytes]) -> dict[str, np.ndarray]:
    """Sends images in one request."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "model"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(image_bytes))
    response = predict_pb2.PredictResponse.FromString(call(request.SerializeToString(), timeout=120))
    return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}


def compare(call: Any, model: Any, options: Any, paths: list[Path], per_request: int) -> dict[str, Any]:
    """Compares all images."""
    largest, different, passed, count = 0.0, 0, True, 0
    for first in range(0, len(paths), _BATCH_SIZE):
        encoded = [path.read_bytes() for path in paths[first : first + _BATCH_SIZE]]
        expected = suppression.TASK.predict(model, options, encoded)
        parts = [ask(call, encoded[start : start + per_request]) for start in range(0, len(encoded), per_request)]
        response = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        agreement = suppression.TASK.export.compare(response, expected, options, _TOLERANCE)
        passed &= agreement.passed
        largest = max(largest, agreement.difference or 0.0)
        numbers = (np.stack(expected)[..., 4] >= 0).sum(axis=1)
        different += int((numbers != response["num_detections"]).sum())
        count += int(numbers.sum())
    return {
        "images": len(paths),
        "images_per_request": per_request,
        "detections": count,
        "images_with_other_number": different,
        "largest_difference": largest,
        "within_tolerance": passed,
    }


def main() -> None:
    """Exports, compares, measures and prints."""
    parser = argparse.ArgumentParser()
    suppression.add_arguments(parser)
    parser.add_argument("--images-compared", type=int, help="all by default")
    parser.add_argument("--seconds", type=float, default=4.0, help="0 measures no throughput")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    model, options, paths = suppression.load(arguments)
    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as running:
        saved = Path(root) / "model" / "1"
        export.export(
            model,
            options,
            tft_layer=_TransformLayer(),
            raw_feature_spec={features.IMAGE_HEIGHT: tf.io.FixedLenFeature([], tf.int64)},
            serving_dir=str(saved),
            run_dir=str(Path(root) / "run"),
        )
        server = serving_speed.ours(saved, paths[0].read_bytes())
        running.callback(server.close)
        channel = running.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}"))
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        for per_request in (1, 8):
            print(
                json.dumps(compare(call, model, options, paths[: arguments.images_compared], per_request)), flush=True
            )
        if arguments.seconds:
            bare = serving_speed.Bare(saved, paths[0])
            running.callback(bare.close)
            serving_speed.compare(bare, {"local server": server}, arguments.seconds, arguments.rounds, [1, 8])


if __name__ == "__main__":
    main()
