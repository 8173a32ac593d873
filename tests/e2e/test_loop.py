"""The cycle after a push: serve, log, drift, alarm, select, label, next span, retrain, gates, push, alarm cleared."""

import json
import subprocess
import sys
from pathlib import Path

from components.image_example_gen.labelled_span import Provenance
from pipeline.continuous.shadow import ShadowReport

SCRIPT = Path(__file__).parents[2] / "scripts" / "loop.py"


def test_make_loop(tmp_path):
    root = tmp_path / "loop"
    command = [sys.executable, str(SCRIPT), "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SCRIPT.parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["second"] > summary["first"]
    accuracy = summary["accuracy"]
    assert accuracy["drifted"] < accuracy["after"] and accuracy["drifted"] < accuracy["clean"]
    # Every label of the new span is that of a logged request, confirmed in the table.
    origins = Provenance.read(str(root / "data" / "span-2")).origins.values()
    assert origins and all(origin.request_id and origin.confirmed_by == "table" for origin in origins)
    shadow = ShadowReport.read(str(root / "loop"))
    assert shadow.changed and not shadow.refused and str(summary["first"]) in shadow.served
