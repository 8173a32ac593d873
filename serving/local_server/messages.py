"""Messages of TF Serving that `tensorflow-serving-api` does not ship, declared field by field under their own names.

Source: TF Serving's servables/tensorflow/session_bundle_config.proto, config/monitoring_config.proto,
config/ssl_config.proto, and gRPC's health.proto. The three configurations are read as text, where only names count.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_FIELD = descriptor_pb2.FieldDescriptorProto
_INT64, _INT32, _BOOL, _STRING = _FIELD.TYPE_INT64, _FIELD.TYPE_INT32, _FIELD.TYPE_BOOL, _FIELD.TYPE_STRING

# Message → field → (number, type). A type that is a string names a message; a leading * says repeated.
_MESSAGES: dict[str, dict[str, tuple[int, int | str]]] = {
    "BatchingParameters": {
        "max_batch_size": (1, ".google.protobuf.Int64Value"),
        "batch_timeout_micros": (2, ".google.protobuf.Int64Value"),
        "max_enqueued_batches": (3, ".google.protobuf.Int64Value"),
        "num_batch_threads": (4, ".google.protobuf.Int64Value"),
        "thread_pool_name": (5, ".google.protobuf.StringValue"),
        "*allowed_batch_sizes": (6, _INT64),
        "pad_variable_length_inputs": (7, _BOOL),
        "enable_large_batch_splitting": (8, ".google.protobuf.BoolValue"),
        "max_execution_batch_size": (9, ".google.protobuf.Int64Value"),
    },
    "PrometheusConfig": {"enable": (1, _BOOL), "path": (2, _STRING)},
    "MonitoringConfig": {"prometheus_config": (1, ".tfx_vision.serving.PrometheusConfig")},
    "SSLConfig": {
        "server_key": (1, _STRING),
        "server_cert": (2, _STRING),
        "custom_ca": (3, _STRING),
        "client_verify": (4, _BOOL),
    },
    "HealthCheckRequest": {"service": (1, _STRING)},
    "HealthCheckResponse": {"status": (1, _INT32)},
}


def _build() -> dict[str, Any]:
    package = "tfx_vision.serving"
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool.Add(wrappers)
    file = descriptor_pb2.FileDescriptorProto(
        name="tfx_vision/serving.proto", package=package, syntax="proto3", dependency=[wrappers.name]
    )
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for name, (number, kind) in fields.items():
            label = _FIELD.LABEL_REPEATED if name.startswith("*") else _FIELD.LABEL_OPTIONAL
            field = message.field.add(name=name.removeprefix("*"), number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = _FIELD.TYPE_MESSAGE, kind
            else:
                field.type = kind
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in _MESSAGES
    }


_CLASSES = _build()
BatchingParameters = _CLASSES["BatchingParameters"]
MonitoringConfig = _CLASSES["MonitoringConfig"]
SSLConfig = _CLASSES["SSLConfig"]
HealthCheckRequest = _CLASSES["HealthCheckRequest"]
HealthCheckResponse = _CLASSES["HealthCheckResponse"]
