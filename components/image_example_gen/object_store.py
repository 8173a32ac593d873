"""Lists objects of Google Cloud Storage: a request returns up to 1,000 names together with sizes and times.

TensorFlow's file system returns only names, and needs another request for every object. Beam's lists everything below a
folder, and keeps all names in memory. The client is the one that Beam uses, with the same default credentials.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from trainer_module.error_text import first_line

SCHEME = "gs://"
_FIELDS = "items(name,size,updated),prefixes,nextPageToken"
_NS_PER_US = 1000


class Listed(NamedTuple):
    """An object, or a folder: a beginning of names that ends with a slash.

    Attributes:
      name: Without that of the folder above.
      size: Bytes.
      changed_ns: Time of the last change.
      is_folder: Whether it is a folder.
    """

    name: str
    size: int = 0
    changed_ns: int = 0
    is_folder: bool = False


class ListingError(Exception):
    """The store does not list the folder; the message contains its location and the reason."""


def listed(location: str) -> list[Listed]:
    """Lists the objects and folders in a folder, by name.

    Raises:
      ListingError: If the store refuses the request, or does not have the bucket.
    """
    return sorted(_listed(location))


def _listed(location: str) -> Iterator[Listed]:
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    bucket, _, folder = location.removeprefix(SCHEME).partition("/")
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    try:
        response = _client().list_blobs(bucket, prefix=prefix, delimiter="/", fields=_FIELDS)
        for item in response:
            if item.name != prefix and not item.name.endswith("/"):  # objects that stand for a folder
                changed_us = round(item.updated.timestamp() * 1e6) if item.updated else 0
                yield Listed(item.name[len(prefix) :], item.size or 0, changed_us * _NS_PER_US)
        for name in response.prefixes:
            yield Listed(name[len(prefix) :].rstrip("/"), is_folder=True)
    except (GoogleAPIError, GoogleAuthError, RequestException) as error:
        raise ListingError(f"{location}: {first_line(error)}") from None


@functools.cache
def _client() -> Any:
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import storage

    try:
        credentials, project = google.auth.default()
    except DefaultCredentialsError:
        return storage.Client.create_anonymous_client()  # as TensorFlow reads public buckets
    return storage.Client(project=project, credentials=credentials)
