"""Makes Pusher run again if an earlier push is no longer the served version."""

from __future__ import annotations

import logging

from ml_metadata import metadata_store

from trainer_module import locations, model_versions


def invalidate(store: metadata_store.MetadataStore) -> None:
    """Deletes the cached copies of pushes whose version is no longer the newest.

    TFX's cache checks the copy of the model that Pusher keeps among the artifacts: without the copy, Pusher runs again,
    and the model of a successful run is the served one. A version that was rolled back is not pushed again.
    """
    for artifact in store.get_artifacts_by_type("PushedModel"):
        destination = artifact.custom_properties["pushed_destination"].string_value
        # Most runs have no copy any more; then the folder of versions is not read.
        if not destination:
            continue
        try:
            with locations.os_errors(artifact.uri), locations.os_errors(destination):
                copies = locations.file_system(artifact.uri)
                if not copies.exists(artifact.uri) or model_versions.is_newest(destination):
                    continue
                if not model_versions.is_withdrawn(destination):
                    copies.rmtree(artifact.uri)
        except OSError as error:
            # For example a store of earlier runs that no longer exists. At worst, a known model is not pushed again.
            logging.getLogger(__name__).warning("Cannot delete the copy of a push at %s: %s", artifact.uri, error)
