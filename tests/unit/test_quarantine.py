"""The quarantine artifact: it is read as it was written, without TFX; other formats are one clear error."""

import subprocess
import sys

import pytest

from components.image_example_gen import artifact
from components.stored import IncompatibleArtifactError


@pytest.fixture
def quarantine():
    return artifact.Quarantine(
        artifact.Summary(
            examples=3,
            quarantined=2,
            reasons={"empty file": 2},
            splits={"train": artifact.SplitCounts(examples=3, classes={"Käse": 3})},
            duplicates={"exact": artifact.DuplicateCounts(groups=1, duplicates=1, leaking_groups=0)},
            span=7,
        ),
        tuple(artifact.QuarantinedFile(path=f"a/new\nline {name}.png", reason="empty file") for name in "ab"),
        (
            artifact.DuplicateGroup(
                kind="exact",
                images=tuple(artifact.DuplicateImage(path=p, classes=("Käse",), split="train") for p in ("x", "y")),
            ),
        ),
    )


@pytest.mark.parametrize("remote", [False, True])
def test_the_artifact_is_read_as_it_was_written(quarantine, tmp_path, remote):
    uri = "ram://quarantine/7" if remote else str(tmp_path / "quarantine")
    quarantine.write(uri)
    assert artifact.Quarantine.read(uri) == quarantine
    assert artifact.Quarantine.read(uri, most_lines=1).files == quarantine.files[:1]
    assert artifact.Summary.read(uri) == quarantine.summary


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (artifact.Summary.FILE, b'{"examples": 3, "splits": {"train": {"a": 3}}}', "its format is none, expected 1"),
        (artifact.QUARANTINE_FILE, b'{"path": "a"}\n', r"quarantine\.jsonl, line 1"),
        (artifact.DUPLICATES_FILE, b'{"kind": "exact", "members": []}\n', r"duplicates\.jsonl, line 1"),
    ],
)
def test_another_format_is_one_clear_error(quarantine, tmp_path, name, content, message):
    quarantine.write(str(tmp_path))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(IncompatibleArtifactError, match=message):
        artifact.Quarantine.read(str(tmp_path))


def test_reading_imports_neither_tfx_nor_tensorflow():
    code = "import sys; import components.image_example_gen.artifact; print({'tfx', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
