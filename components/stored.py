"""The base of the JSON files that components store: typed, versioned, and read without TFX and TensorFlow."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer_module import locations


class IncompatibleArtifactError(Exception):
    """A stored file is damaged, or another version of tfx-vision wrote it."""


class StoredPart(BaseModel):
    """A part of a stored file. An unknown key is an error; NaN and infinity are stored as null."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class Stored(StoredPart):
    """One JSON file of an artifact; subclasses add the fields and, when these change, redefine `format`.

    Attributes:
      FILE: Name of the file in the folder of the artifact.
      format: Number of the file format: `format: Literal[2] = 2`.
    """

    FILE: ClassVar[str]

    format: Any

    @classmethod
    def read(cls, uri: str) -> Self:
        """Reads the file of an artifact.

        Args:
          uri: Folder of the artifact, local or remote.

        Raises:
          OSError: If the file cannot be read.
          IncompatibleArtifactError: If its format or content is not that of this version.
        """
        path = locations.join(uri, cls.FILE)
        content = locations.read(path)
        try:
            document = json.loads(content)
            stored, expected = isinstance(document, dict) and document.get("format"), cls.model_fields["format"].default
            if stored != expected:
                raise ValueError(f"its format is {stored or 'none'}, expected {expected}")
            return cls.model_validate_json(content)
        except ValueError as error:
            raise IncompatibleArtifactError(
                f"{path} cannot be read by this version of tfx-vision: {_difference(error)}. Run the pipeline again to "
                "write a new one, or read it with the version that wrote it."
            ) from None

    def write(self, uri: str) -> None:
        """Writes the file into the folder of an artifact; a reader sees the old content or the new one.

        Raises:
          OSError: If it cannot be written.
        """
        locations.replace(locations.join(uri, self.FILE), self.model_dump_json(indent=2).encode())


def _difference(error: ValueError) -> str:
    """Describes in one clause why a file is incompatible."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
