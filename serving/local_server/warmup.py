"""Warm-up requests: they run before a version is available, so that no client waits for the slow first run.

Source: TF Serving's servables/tensorflow/saved_model_warmup{,_util}.cc.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

from google.protobuf.message import DecodeError

from serving import tfrecord
from serving.local_server import inference, monitoring, tensors
from serving.local_server.caller import Caller
from serving.local_server.errors import RequestError, invalid_argument
from serving.local_server.protos import prediction_log_pb2
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
    if not locations.file_system(path).exists(path):
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
    for count, record in enumerate(_records(locations.read(path)), start=1):
        if count > _MAX_RECORDS:
            raise invalid_argument(f"Number of warmup records exceeds the maximum ({_MAX_RECORDS}) at {path}")
        try:
            log = prediction_log_pb2.PredictionLog.FromString(record)
        except DecodeError:
            raise invalid_argument(f"Failed to parse warmup record: {record[:64]!r} from {path}") from None
        for _ in range(iterations):
            _run_request(servable, log)


def _records(content: bytes) -> Iterator[bytes]:
    """Yields the records of a warm-up file."""
    try:
        for _, record in tfrecord.records(io.BytesIO(content)):
            yield record
    except tfrecord.DamagedRecordError as error:
        raise RequestError("DATA_LOSS", f"{error}. Please verify your warmup data is in TFRecord format.") from None


def _run_request(servable: Servable, log: prediction_log_pb2.PredictionLog) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        predict = log.predict_log.request
        inputs = {alias: tensors.to_numpy(tensor, alias) for alias, tensor in predict.inputs.items()}
        inference.predict(servable, predict.model_spec.signature_name, inputs, list(predict.output_filter), Caller())
    elif kind == "classify_log":
        classify = log.classify_log.request
        inference.classify(servable, classify.model_spec.signature_name, classify.input, Caller())
    elif kind == "regress_log":
        regress = log.regress_log.request
        inference.regress(servable, regress.model_spec.signature_name, regress.input, Caller())
    elif kind == "multi_inference_log":
        inference.multi_inference(servable, log.multi_inference_log.request, Caller())
    else:
        raise RequestError("UNIMPLEMENTED", f"Unsupported log_type for warmup: {kind}")
