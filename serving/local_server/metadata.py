"""The metadata of a model version: its signatures.

Source: TF Serving's servables/tensorflow/get_model_metadata_impl.cc and model_servers/http_rest_api_util.cc.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format

from serving.local_server.errors import invalid_argument
from serving.local_server.protos import get_model_metadata_pb2
from serving.local_server.servable import Servable

SIGNATURE_DEF = "signature_def"


def check_fields(fields: Sequence[str]) -> None:
    """Refuses a request for other fields than the signatures."""
    if not fields:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in fields:
        if field != SIGNATURE_DEF:
            raise invalid_argument(f"Metadata field {field} is not supported")


def response(servable: Servable) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Returns the response of gRPC's GetModelMetadata."""
    message = get_model_metadata_pb2.GetModelMetadataResponse()
    message.model_spec.name, message.model_spec.version.value = servable.name, servable.version
    message.metadata[SIGNATURE_DEF].Pack(_signatures(servable))
    return message


def as_json(servable: Servable) -> dict[str, Any]:
    """Returns the response of REST's /metadata, with every default value."""
    return {
        "model_spec": _to_dict(response(servable).model_spec),
        "metadata": {SIGNATURE_DEF: _to_dict(_signatures(servable))},
    }


def _signatures(servable: Servable) -> get_model_metadata_pb2.SignatureDefMap:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in servable.signatures.items():
        signatures.signature_def[name].CopyFrom(definition)
    return signatures


def _to_dict(message: Any) -> dict[str, Any]:
    as_dict: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return as_dict
