"""Connections to the model server, one per model and version, which all requests share."""

from __future__ import annotations

import threading
from typing import NamedTuple

from pipeline.studio.options import StudioOptions
from serving import client as clients
from serving.client import Client, GrpcClient, ModelMetadata, ServerError
from trainer_module import features

# A request of a page must not wait for long.
# The first request to a version takes longest.
_TIMEOUT_S = 60.0
_STATUS_TIMEOUT_S = 2.0


class ServedModel(NamedTuple):
    """A model as the server describes it.

    Attributes:
      name: Its name on the server.
      versions: Available versions, newest first.
      error: Why it cannot be used; empty if it can.
    """

    name: str
    versions: tuple[int, ...] = ()
    error: str = ""


class ModelServer:
    """The model server."""

    def __init__(self, options: StudioOptions) -> None:
        """Takes the options; connects at the first request."""
        self.address = options.grpc
        self._lock = threading.Lock()
        self._clients: dict[tuple[str, int | None], Client] = {}
        self._metadata: dict[tuple[str, int], ModelMetadata] = {}

    def client(self, model: str, version: int | None = None) -> Client:
        """Returns the client of a model version; None is the newest."""
        with self._lock:
            key = model, version
            if key not in self._clients:
                self._clients[key] = GrpcClient(self.address, model, version=version, timeout_s=_TIMEOUT_S, retries=1)
            return self._clients[key]

    def model(self, name: str) -> ServedModel:
        """Asks for the versions of a model; a server that cannot be reached is an error in words."""
        try:
            status = self.client(name).status(timeout_s=_STATUS_TIMEOUT_S)
        except clients.NotFoundError:
            return ServedModel(name, error=f"The model server at {self.address} does not serve the model {name}.")
        except ServerError as error:
            return ServedModel(name, error=f"The model server at {self.address} does not respond: {error.message}")
        versions = tuple(entry.version for entry in status if entry.state == "AVAILABLE")
        return ServedModel(name, versions, "" if versions else f"No version of {name} is available yet.")

    def metadata(self, model: str, version: int) -> ModelMetadata:
        """Returns the signatures of a version; ServerError if the server does not have it."""
        key = model, version
        if key not in self._metadata:
            self._metadata[key] = self.client(model, version).metadata()
        return self._metadata[key]

    def has_signature(self, model: str, version: int, signature: str) -> bool:
        """Whether a version has a signature."""
        return signature in self.metadata(model, version).signatures

    def method(self, model: str, version: int) -> str | None:
        """Returns the client's method for predictions of a version; see `responses.method_of`."""
        from serving.responses import method_of

        default = self.metadata(model, version).signatures.get(features.SERVING_DEFAULT)
        return method_of(default.outputs) if default else None

    def close(self) -> None:
        """Closes all connections."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()
