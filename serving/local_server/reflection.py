"""gRPC's server reflection: clients such as grpcurl list services and read their messages without `.proto` files.

Source: grpc/reflection/v1/reflection.proto; `v1alpha` has the same messages.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool

from serving import message_classes

_FIELD = descriptor_pb2.FieldDescriptorProto
_INT32, _STRING, _BYTES = _FIELD.TYPE_INT32, _FIELD.TYPE_STRING, _FIELD.TYPE_BYTES
_NAMES = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
_CLASSES = message_classes.build(
    "tfx_vision.reflection",
    {
        "Extension": {"containing_type": (1, _STRING), "extension_number": (2, _INT32)},
        "Request": {
            "host": (1, _STRING),
            "?file_by_filename": (3, _STRING),
            "?file_containing_symbol": (4, _STRING),
            "file_containing_extension": (5, "Extension"),
            "?all_extension_numbers_of_type": (6, _STRING),
            "?list_services": (7, _STRING),
        },
        "Files": {"*file_descriptor_proto": (1, _BYTES)},
        "ExtensionNumbers": {"base_type_name": (1, _STRING), "*extension_number": (2, _INT32)},
        "Service": {"name": (1, _STRING)},
        "Services": {"*service": (1, "Service")},
        "Error": {"error_code": (1, _INT32), "error_message": (2, _STRING)},
        "Response": {
            "valid_host": (1, _STRING),
            "original_request": (2, "Request"),
            "file_descriptor_response": (4, "Files"),
            "all_extension_numbers_response": (5, "ExtensionNumbers"),
            "list_services_response": (6, "Services"),
            "error_response": (7, "Error"),
        },
    },
)
# A stream occupies a thread.
_MAX_STREAMS = 4
_Request, _Response = _CLASSES["Request"], _CLASSES["Response"]


class ReflectionService:
    """Answers what services there are, and what their messages look like."""

    def __init__(self, server: grpc.Server, service_names: Iterable[str]) -> None:
        """Registers the service.

        Args:
          server: Not started yet.
          service_names: Full names of the other services.
        """
        self._names = sorted([*service_names, *_NAMES])
        self._streams: set[grpc.ServicerContext] = set()
        self._lock = threading.Lock()
        handler = grpc.stream_stream_rpc_method_handler(
            self._respond_to_all,
            request_deserializer=_Request.FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )
        for name in _NAMES:
            methods = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
            server.add_generic_rpc_handlers((methods,))

    def end_streams(self) -> None:
        """Ends all streams: a server that drains would wait for them until its grace period is over."""
        with self._lock:
            streams = list(self._streams)
        for context in streams:
            context.cancel()

    def _respond_to_all(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        with self._lock:
            free = len(self._streams) < _MAX_STREAMS
            if free:
                self._streams.add(context)
        if not free:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{_MAX_STREAMS} reflection streams are open.")
        try:
            for request in requests:
                yield _respond(request, self._names)
        finally:
            with self._lock:
                self._streams.discard(context)


def _respond(request: Any, names: list[str]) -> Any:
    response, pool = _Response(valid_host=request.host, original_request=request), descriptor_pool.Default()
    try:
        if request.HasField("list_services"):
            for name in names:
                response.list_services_response.service.add(name=name)
        elif request.HasField("file_by_filename"):
            _add_files(response, pool.FindFileByName(request.file_by_filename))
        elif request.HasField("file_containing_symbol"):
            _add_files(response, pool.FindFileContainingSymbol(request.file_containing_symbol))
        elif request.HasField("file_containing_extension"):
            wanted = request.file_containing_extension
            extended = pool.FindMessageTypeByName(wanted.containing_type)
            _add_files(response, pool.FindExtensionByNumber(extended, wanted.extension_number).file)
        elif request.HasField("all_extension_numbers_of_type"):
            numbers = response.all_extension_numbers_response
            numbers.base_type_name = request.all_extension_numbers_of_type
            extended = pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
            numbers.extension_number.extend(sorted(each.number for each in pool.FindAllExtensions(extended)))
        else:
            _set_error(response, grpc.StatusCode.INVALID_ARGUMENT, "The request is empty.")
    except KeyError as error:
        _set_error(response, grpc.StatusCode.NOT_FOUND, str(error.args[0] if error.args else "not found"))
    return response


def _add_files(response: Any, file: Any) -> None:
    """Adds a file and all files that it imports."""
    pending, done = [file], set()
    while pending:
        current = pending.pop()
        if current.name not in done:
            done.add(current.name)
            response.file_descriptor_response.file_descriptor_proto.append(current.serialized_pb)
            pending.extend(current.dependencies)


def _set_error(response: Any, code: grpc.StatusCode, message: str) -> None:
    response.ClearField("all_extension_numbers_response")
    response.error_response.error_code, response.error_response.error_message = code.value[0], message
