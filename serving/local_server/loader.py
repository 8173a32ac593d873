"""Loads a version's files: a SavedModel into a session, or `model.tflite` into interpreters."""

from __future__ import annotations

from serving.local_server.protos import config_pb2
from serving.local_server.servable import LoadOptions, Model
from serving.local_server.session import Session
from trainer_module import locations

TFLITE_FILE = "model.tflite"


def load(export_dir: str, options: LoadOptions) -> Model:
    """Loads a version.

    Args:
      export_dir: Folder with `saved_model.pb` and `variables/`, or with `model.tflite`.
      options: Options of the session.

    Raises:
      RequestError: If the version cannot be loaded.
    """
    lite = locations.join(export_dir, TFLITE_FILE)
    if options.prefer_tflite and locations.file_system(lite).exists(lite):
        from serving.local_server.tflite import Interpreters

        return Interpreters(locations.read(lite), options.intra_op_threads)
    config = config_pb2.ConfigProto(
        intra_op_parallelism_threads=options.intra_op_threads,
        inter_op_parallelism_threads=options.inter_op_threads,
        gpu_options=config_pb2.GPUOptions(
            per_process_gpu_memory_fraction=options.gpu_memory_fraction, allow_growth=not options.gpu_memory_fraction
        ),
    )
    return Session(export_dir, options.tags, config)
