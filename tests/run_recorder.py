"""Writes the run history of a pipeline as TFX does, without TFX."""

from __future__ import annotations

import json

from ml_metadata.proto import metadata_store_pb2 as mlmd

from pipeline.history import metadata_store


class Recorder:
    """Writes runs as TFX does: contexts of runs and nodes, executions, artifacts and events."""

    def __init__(self, folder):
        """Makes an empty history in a folder."""
        self.folder = folder
        self.store = metadata_store.open_store(folder / "metadata.sqlite")
        self.types = {
            name: self.store.put_context_type(mlmd.ContextType(name=name))
            for name in (metadata_store.RUN_CONTEXT, metadata_store.NODE_CONTEXT)
        }
        self.artifact_type = self.store.put_artifact_type(mlmd.ArtifactType(name="Any"))
        self.execution_type = self.store.put_execution_type(mlmd.ExecutionType(name="Any"))
        self.nodes = {}

    def context(self, kind, name):
        """Adds a context."""
        (id_,) = self.store.put_contexts([mlmd.Context(type_id=self.types[kind], name=name)])
        return mlmd.Context(id=id_, type_id=self.types[kind], name=name)

    def run(self, id_, *done):
        """Each of `done` is (node, state, parameters, outputs); an output is an artifact, new or of an earlier run."""
        run = self.context(metadata_store.RUN_CONTEXT, id_)
        for node, state, parameters, outputs in done:
            if node not in self.nodes:
                self.nodes[node] = self.context(metadata_store.NODE_CONTEXT, f"{self.folder.name}.{node}")
            execution = mlmd.Execution(type_id=self.execution_type, last_known_state=state)
            for name, value in parameters.items():
                execution.custom_properties[name].string_value = value
            pairs = []
            for key, artifact in outputs.items():
                event = mlmd.Event(type=mlmd.Event.OUTPUT)
                event.path.steps.add().key = key
                pairs.append((artifact, event))
            _, artifacts, _ = self.store.put_execution(execution, pairs, [run, self.nodes[node]])
            for artifact, artifact_id in zip(outputs.values(), artifacts, strict=True):
                artifact.id = artifact_id

    def artifact(self, name, files=None, **properties):
        """Makes an artifact's folder with these files."""
        folder = self.folder / name
        folder.mkdir()
        for file, value in (files or {}).items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(value, bytes):
                path.write_bytes(value)
            else:
                path.write_text(value if isinstance(value, str) else json.dumps(value))
        artifact = mlmd.Artifact(type_id=self.artifact_type, uri=str(folder))
        for key, value in properties.items():
            if isinstance(value, int):
                artifact.custom_properties[key].int_value = value
            else:
                artifact.custom_properties[key].string_value = value
        return artifact
