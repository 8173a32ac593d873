"""Request ids: they connect a prediction with its record in the log and with feedback that arrives later."""

from __future__ import annotations

import hashlib
import re
import uuid

# The key of gRPC metadata, and the HTTP header: the name that proxies such as Envoy and nginx use too.
REQUEST_ID_KEY = "x-request-id"
_VALID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SEPARATOR = "/"
# Of requests that no user sent: by which a client examines the server, or the gateway mirrors; they are not logged.
_PROBE_PREFIX = "probe-"


def new() -> str:
    """Returns a new id."""
    return uuid.uuid4().hex


def new_probe() -> str:
    """Returns a new id of a request that is not logged."""
    return _PROBE_PREFIX + new()


def accepted(given: str | None) -> str:
    """Returns the given id if it is valid: 1 to 128 letters, digits and `._:-`; otherwise a new one."""
    return given if given is not None and _VALID.fullmatch(given) else new()


def of_image(request_id: str, index: int, count: int) -> str:
    """Returns the id of one image of a request: REQUEST_ID/INDEX if the request contains several."""
    return request_id if count == 1 else f"{request_id}{_SEPARATOR}{index}"


def split(image_id: str) -> tuple[str, int]:
    """Returns the id of the request, and the index of the image in it.

    Raises:
      ValueError: If it is not an id.
    """
    request_id, separator, index = image_id.partition(_SEPARATOR)
    if not _VALID.fullmatch(request_id) or (separator and not re.fullmatch(r"[0-9]{1,6}", index)):
        raise ValueError(
            f"{image_id[:200]!r} is not a request id: 1 to 128 letters, digits and ._:- and for one of several images "
            "a slash and its index."
        )
    return request_id, int(index or 0)


def is_selected(request_id: str, sampling_rate: float) -> bool:
    """Whether a request is logged; requests with the same id are all selected, or none."""
    return not request_id.startswith(_PROBE_PREFIX) and fraction(request_id) < sampling_rate


def fraction(request_id: str, purpose: str = "") -> float:
    """Returns a number in [0, 1) that depends on the id only; another purpose gives another number."""
    digest = hashlib.blake2b(request_id.encode(), digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64
