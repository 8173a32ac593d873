"""Options of the request log; the command line reads them, so this module imports nothing else of the log."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Content(enum.StrEnum):
    """Content of a record; the pixels of an image are stored with `image` only."""

    IMAGE = "image"  # request and response
    EMBEDDING = "embedding"  # response, and the embedding from the signature `embed`
    RESPONSE = "response"  # response only


@dataclass(frozen=True)
class Rotation:
    """Limits at which a file is complete, and at which it is deleted.

    Attributes:
      max_bytes: A file is complete at this size.
      max_age_s: A file is complete at this age, seconds.
      keep_s: Files are deleted at this age, seconds.
      keep_bytes: The oldest files are deleted if all together are larger.
    """

    max_bytes: int = 64 * 2**20
    max_age_s: float = 300.0
    keep_s: float = 30 * 24 * 3600.0
    keep_bytes: int = 10 * 2**30


@dataclass(frozen=True)
class LogOptions:
    """Options of one log.

    Attributes:
      prefix: Folder, and beginning of the names of the files; "" for no log.
      sampling_rate: The fraction of the requests that are logged, range [0, 1].
      content: What a record contains.
      rotation: When files are complete, and when they are deleted.
      max_queued: How many records wait for the disk at most.
      max_queued_bytes: How large they are at most, together.
    """

    prefix: str = ""
    sampling_rate: float = 1.0
    content: Content = Content.IMAGE
    rotation: Rotation = field(default_factory=Rotation)
    max_queued: int = 1024
    max_queued_bytes: int = 64 * 2**20
