"""Messages of TF Serving that `tensorflow-serving-api` does not contain, declared with TF Serving's field names.

Source: TF Serving's servables/tensorflow/session_bundle_config.proto, config/monitoring_config.proto and
config/ssl_config.proto. They are read as text: only names matter.
"""

from __future__ import annotations

from google.protobuf import descriptor_pb2, wrappers_pb2

from serving import message_classes

_FIELD = descriptor_pb2.FieldDescriptorProto
_INT64, _BOOL, _STRING = _FIELD.TYPE_INT64, _FIELD.TYPE_BOOL, _FIELD.TYPE_STRING

_MESSAGES: message_classes.Messages = {
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
    "MonitoringConfig": {"prometheus_config": (1, "PrometheusConfig")},
    "SSLConfig": {
        "server_key": (1, _STRING),
        "server_cert": (2, _STRING),
        "custom_ca": (3, _STRING),
        "client_verify": (4, _BOOL),
    },
}

_CLASSES = message_classes.build("tfx_vision.serving", _MESSAGES, [wrappers_pb2.DESCRIPTOR])
BatchingParameters = _CLASSES["BatchingParameters"]
MonitoringConfig = _CLASSES["MonitoringConfig"]
SSLConfig = _CLASSES["SSLConfig"]
