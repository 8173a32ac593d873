"""The results of monitoring in ML Metadata: an execution per window, from the reference to the result.

Imports neither TFX nor TensorFlow.
"""

from __future__ import annotations

from ml_metadata import metadata_store as mlmd
from ml_metadata.proto import metadata_store_pb2
from pydantic import ValidationError

from pipeline.config.sections import PipelineConfig
from pipeline.execution.run_lock import run_lock
from pipeline.history import metadata_store
from pipeline.history.run_history import readable_errors
from serving.monitor.result import MonitorResult

_EXECUTION_TYPE, _ARTIFACT_TYPE = "tfx_vision.Monitor", "tfx_vision.MonitoredWindow"
_RESULT = "result"  # property of the artifact: the JSON document
_Event = metadata_store_pb2.Event


def add(config: PipelineConfig, result: MonitorResult, reference_uri: str, result_uri: str) -> None:
    """Stores a result.

    Args:
      config: The configuration of the pipeline.
      result: The result.
      reference_uri: Location of the reference that the window was compared with.
      result_uri: Location of the files that were written.

    Raises:
      AlreadyRunningError: If a run uses the store.
      ConfigError: If it cannot be written.
    """
    with run_lock(config.run_dir), readable_errors(config.metadata_path):
        store = metadata_store.open_store(config.metadata_path)
        artifact_type = store.put_artifact_type(metadata_store_pb2.ArtifactType(name=_ARTIFACT_TYPE))
        execution_type = store.put_execution_type(metadata_store_pb2.ExecutionType(name=_EXECUTION_TYPE))
        artifact = metadata_store_pb2.Artifact(type_id=artifact_type, uri=result_uri)
        artifact.custom_properties["version"].int_value = result.version
        artifact.custom_properties["alarm"].int_value = int(result.alarm)
        artifact.custom_properties[_RESULT].string_value = result.model_dump_json()
        execution = metadata_store_pb2.Execution(
            type_id=execution_type, last_known_state=metadata_store_pb2.Execution.COMPLETE
        )
        references = store.get_artifacts_by_uri(reference_uri)
        pairs = [(reference, _Event(type=_Event.INPUT)) for reference in references]
        store.put_execution(execution, [*pairs, (artifact, _Event(type=_Event.OUTPUT))], [])


def read(config: PipelineConfig, num: int) -> list[MonitorResult]:
    """Returns the last results, the newest first; those of incompatible versions of tfx-vision are ignored.

    Raises:
      ConfigError: If the store cannot be read.
    """
    with readable_errors(config.metadata_path):
        store = metadata_store.open_store(config.metadata_path, read_only=True)
        artifacts = _newest(store, num)
    results = []
    for artifact in artifacts:
        try:
            results.append(MonitorResult.model_validate_json(artifact.custom_properties[_RESULT].string_value))
        except ValidationError:
            continue
    return results


def _newest(store: mlmd.MetadataStore, num: int) -> list[metadata_store_pb2.Artifact]:
    artifacts = store.get_artifacts_by_type(_ARTIFACT_TYPE)
    return sorted(artifacts, key=lambda artifact: -artifact.id)[:num]
