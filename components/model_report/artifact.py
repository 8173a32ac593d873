"""The file of the `report` artifact; reading it requires neither TFX nor TensorFlow."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict

from trainer_module import locations

REPORT_FILE = "report.html"


class Report(BaseModel):
    """The report of a run.

    Attributes:
      html: One document that loads nothing from elsewhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    html: str

    @classmethod
    def read(cls, uri: str) -> Self:
        """Reads the report from the folder of its artifact, local or remote; OSError if that fails."""
        return cls(html=locations.read(locations.join(uri, REPORT_FILE)).decode())

    def write(self, uri: str) -> None:
        """Writes the report into the folder of its artifact; OSError if that fails."""
        locations.write(locations.join(uri, REPORT_FILE), self.html.encode())
