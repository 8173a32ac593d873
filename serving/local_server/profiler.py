"""TensorFlow's profiler service on the gRPC port: TensorBoard captures a profile of the running server.

TensorFlow's own server of this service listens on a second port, of all addresses of the machine, and only the Python
package starts it. Here the module of that package which holds the profiler session is loaded alone.

Source: tsl/profiler/rpc/profiler_service_impl.cc and protobuf/profiler_service.proto.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2

from serving import message_classes
from serving.local_server import c_library
from serving.local_server.protos import xplane_pb2
from trainer_module import locations, private_api

NAME = "tensorflow.ProfilerService"
_MODULE = "tensorflow.python.profiler.internal._pywrap_profiler"
_FIELD = descriptor_pb2.FieldDescriptorProto
_UINT64, _BOOL, _STRING, _BYTES = _FIELD.TYPE_UINT64, _FIELD.TYPE_BOOL, _FIELD.TYPE_STRING, _FIELD.TYPE_BYTES
_CLASSES = message_classes.build(
    "tfx_vision.profiler",
    {
        "Options": {"duration_ms": (9, _UINT64)},
        "ProfileRequest": {
            "duration_ms": (1, _UINT64),
            "opts": (4, "Options"),
            "repository_root": (5, _STRING),
            "session_id": (6, _STRING),
            "host_name": (7, _STRING),
            "emit_xspace": (9, _BOOL),
        },
        "ProfileResponse": {"empty_trace": (7, _BOOL), "xspace": (8, _BYTES)},
        "TerminateRequest": {"session_id": (1, _STRING)},
        "TerminateResponse": {},
    },
)
_UNSUPPORTED = f"Profiles require TensorFlow {private_api.PROFILER.releases['tensorflow']}."
ProfileRequest, ProfileResponse = _CLASSES["ProfileRequest"], _CLASSES["ProfileResponse"]
TerminateRequest, TerminateResponse = _CLASSES["TerminateRequest"], _CLASSES["TerminateResponse"]


class ProfilerService:
    """Serves `Profile` and `Terminate`. As in TensorFlow, `Monitor` is not implemented."""

    def __init__(self, server: grpc.Server) -> None:
        """Registers the service.

        Args:
          server: Not started yet.
        """
        self._capturing = threading.Lock()
        self._current = "", threading.Event()  # the session id of the newest capture, and what ends it
        methods = {
            "Profile": (self._profile, ProfileRequest, ProfileResponse),
            "Terminate": (self._terminate, TerminateRequest, TerminateResponse),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(method, request.FromString, response.SerializeToString)
            for name, (method, request, response) in methods.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))

    def _profile(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Captures a profile: into a folder that the client names, as TensorFlow does, or into the response."""
        session_class: Any = private_api.prepare(private_api.PROFILER, _session_class)
        if session_class is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, _UNSUPPORTED)
        if not self._capturing.acquire(blocking=False):
            context.abort(grpc.StatusCode.INTERNAL, "Another profile is being captured.")
        try:
            # Before the session starts, which takes a while: a capture that is ended meanwhile ends at once.
            ended = threading.Event()
            self._current = request.session_id, ended
            if not context.add_callback(ended.set):  # the call is over already
                ended.set()
            with tempfile.TemporaryDirectory() as folder:
                session = session_class()
                session.start(folder, {})
                _wait(request, ended)
                session.export_to_tb()  # its `stop` returns another format
                (path,) = Path(folder).glob("**/*.xplane.pb")
                profile = path.read_bytes()
        finally:
            self._capturing.release()
        response = ProfileResponse(empty_trace=_is_empty(profile))
        if request.emit_xspace:
            response.xspace = profile
        else:
            try:
                _write(request, profile)
            except OSError as error:
                context.abort(grpc.StatusCode.INTERNAL, f"The profile cannot be written: {error}")
        return response

    def _terminate(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Ends a capture early."""
        session_id, ended = self._current
        if request.session_id == session_id:
            ended.set()
        return TerminateResponse()


def _wait(request: Any, ended: threading.Event) -> None:
    ended.wait(min((request.opts.duration_ms or request.duration_ms) / 1000, threading.TIMEOUT_MAX))


def _session_class() -> Any:
    """Loads TensorFlow's profiler session without the packages around it.

    The module gets its own name in `sys.modules`: it cannot be loaded twice if something imports TensorFlow later.
    """
    if _MODULE not in sys.modules:
        path = c_library.folder() / "python" / "profiler" / "internal" / "_pywrap_profiler.so"
        spec = importlib.util.spec_from_file_location(_MODULE, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is missing")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[_MODULE] = module
    return sys.modules[_MODULE].ProfilerSession


def _is_empty(profile: bytes) -> bool:
    space = xplane_pb2.XSpace.FromString(profile)
    return not any(line.events for plane in space.planes for line in plane.lines)


def _write(request: Any, profile: bytes) -> None:
    folder = locations.join(request.repository_root, request.session_id)
    path = locations.join(folder, f"{request.host_name.replace(':', '_')}.xplane.pb")
    with locations.os_errors(path):
        locations.file_system(path).makedirs(folder)
        locations.write(path, profile)
