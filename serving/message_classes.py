"""Protocol buffer message classes from a table of fields, without generated modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto

# Message → field → (number, type). A leading * marks a repeated field, a leading ? one whose presence is recorded. A
# string is the name of a message type: of the same table, or with a leading dot the full name of any other.
Messages = Mapping[str, Mapping[str, tuple[int, int | str]]]


def build(package: str, messages: Messages, dependencies: Iterable[Any] = ()) -> dict[str, Any]:
    """Builds a class for every message, in a separate descriptor pool.

    Args:
      package: Protocol buffer package of the messages.
      messages: Their fields.
      dependencies: Descriptors of the files that declare other messages.
    """
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package.replace('.', '/')}.proto", package=package, syntax="proto3"
    )
    for descriptor in dependencies:
        pool.AddSerializedFile(descriptor.serialized_pb)
        file.dependency.append(descriptor.name)
    for message_name, fields in messages.items():
        message = file.message_type.add(name=message_name)
        for name, (number, kind) in fields.items():
            label = _FIELD.LABEL_REPEATED if name.startswith("*") else _FIELD.LABEL_OPTIONAL
            field = message.field.add(name=name.lstrip("*?"), number=number, label=label)
            if name.startswith("?"):
                field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field.name}")
            if isinstance(kind, str):
                field.type = _FIELD.TYPE_MESSAGE
                field.type_name = kind if kind.startswith(".") else f".{package}.{kind}"
            else:
                field.type = kind
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in messages}
