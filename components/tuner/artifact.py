"""The table of trials that Tuner writes; reading it requires neither TFX nor TensorFlow."""

from __future__ import annotations

import csv
import io

from trainer_module import locations

TRIALS_FILE = "trials.csv"


def read_trials(uri: str) -> list[dict[str, str]]:
    """Reads one row per trial: `rank` (empty if it failed), `objective`, `value`, and the searched settings.

    Args:
      uri: Folder of the `tuner_results` artifact, local or remote.

    Raises:
      OSError: If it cannot be read.
    """
    content = locations.read(locations.join(uri, TRIALS_FILE)).decode()
    return list(csv.DictReader(io.StringIO(content, newline="")))
