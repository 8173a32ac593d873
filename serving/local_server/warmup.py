"""Warm-up requests: they run before a version is available, so that no client waits for the slow first run.

Source: TF Serving's servables/tensorflow/saved_model_warmup{,_util}.cc.
"""

from __future__ import annotations

import time

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from serving.local_server import inference, monitoring, tensors
from serving.local_server.errors import RequestError, invalid_argument
from serving.local_server.servable import Servable
from trainer_module import locations

_FILE = "assets.extra/tf_serving_warmup_requests"
_MAX_RECORDS = 1000


def run(servable: Servable, export_dir: str, iterations: int = 1) -> None:
    """Replays the warm-up requests of a version, if it has any.

    Args:
      servable: The loaded version.
      export_dir: Its folder.
      iterations: How often each request runs.

    Raises:
      RequestError: If the file is invalid or a request fails; the version must not be served then.
    """
    path = locations.join(export_dir, _FILE)
    if not tf.io.gfile.exists(path):
        return
    started, status = time.perf_counter(), "OK"
    try:
        _replay(servable, path, iterations)
    except RequestError as error:
        status = error.code
        raise
    finally:
        monitoring.WARMUP_LATENCY.labels(export_dir, status).observe((time.perf_counter() - started) * 1e6)


def _replay(servable: Servable, path: str, iterations: int) -> None:
    count = 0
    try:
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            count += 1
            if count > _MAX_RECORDS:
                raise invalid_argument(f"Number of warmup records exceeds the maximum ({_MAX_RECORDS}) at {path}")
            try:
                log = prediction_log_pb2.PredictionLog.FromString(record)
            except DecodeError:
                raise invalid_argument(f"Failed to parse warmup record: {record[:64]!r} from {path}") from None
            for _ in range(iterations):
                _run_request(servable, log)
        # The reader sees no records in a file that is shorter than the header of one.
        damage = "" if count or not tf.io.gfile.stat(path).length else "truncated record at 0"
    except tf.errors.DataLossError as error:
        damage = error.message
    if damage:
        raise RequestError("DATA_LOSS", f"{damage}. Please verify your warmup data is in TFRecord format.")


def _run_request(servable: Servable, log: prediction_log_pb2.PredictionLog) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        predict = log.predict_log.request
        inputs = {alias: tensors.to_numpy(tensor) for alias, tensor in predict.inputs.items()}
        inference.predict(servable, predict.model_spec.signature_name, inputs, list(predict.output_filter))
    elif kind == "classify_log":
        classify = log.classify_log.request
        inference.classify(servable, classify.model_spec.signature_name, classify.input)
    elif kind == "regress_log":
        regress = log.regress_log.request
        inference.regress(servable, regress.model_spec.signature_name, regress.input)
    elif kind == "multi_inference_log":
        inference.multi_inference(servable, log.multi_inference_log.request)
    else:
        raise RequestError("UNIMPLEMENTED", f"Unsupported log_type for warmup: {kind}")
