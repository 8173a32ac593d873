"""What a run came to, as people read it."""

import io
from types import SimpleNamespace

from rich.console import Console

from pipeline import show


def test_tuned_integers_are_shown_whole():
    values = {"training.batch_size": 65535, "training.learning_rate": 0.0001234567}
    tuning = {"trials": 2, "failed": 0, "objective": "val_loss", "value": 0.5, "values": values, "table": "trials.csv"}
    out = io.StringIO()
    show._tuning(Console(file=out), SimpleNamespace(tuning=tuning))
    assert "  training.batch_size = 65535\n  training.learning_rate = 0.0001235\n" in out.getvalue()
