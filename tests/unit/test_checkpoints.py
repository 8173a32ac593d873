"""A checkpoint is complete or ignored."""

import numpy as np

from trainer_module.checkpoints import Checkpoint, CheckpointFile

CHECKPOINT = Checkpoint({"epochs": 3, "best": 0.5}, {"a": [np.arange(4.0), np.eye(2, dtype=np.int64)], "none": []})


def test_read_returns_the_written_checkpoint(tmp_path):
    file = CheckpointFile(str(tmp_path / "new" / "x.npz"), "key")
    assert file.read() is None
    file.write(Checkpoint({}, {}))
    file.write(CHECKPOINT)
    restored = file.read()
    assert restored.state == CHECKPOINT.state and restored.arrays["none"] == []
    for one, other in zip(restored.arrays["a"], CHECKPOINT.arrays["a"], strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.npz"]
    file.delete()
    assert file.read() is None and not list((tmp_path / "new").iterdir())


def test_a_checkpoint_with_another_key_is_ignored(tmp_path):
    path = str(tmp_path / "x.npz")
    CheckpointFile(path, "one").write(CHECKPOINT)
    assert CheckpointFile(path, "other").read() is None


def test_a_damaged_checkpoint_is_logged_and_ignored(tmp_path, caplog):
    path = tmp_path / "x.npz"
    file = CheckpointFile(str(path), "key")
    file.write(CHECKPOINT)
    content = path.read_bytes()
    for damaged in (content[:100], b"", content[:200] + b"\0" * 64 + content[264:]):
        caplog.clear()
        path.write_bytes(damaged)
        assert file.read() is None
        assert "Training starts from the beginning" in caplog.text


def test_without_a_path_nothing_is_stored():
    file = CheckpointFile(None, "key")
    file.write(CHECKPOINT)
    assert file.read() is None
    file.delete()
