"""A checkpoint is whole or not there."""

import numpy as np

from trainer_module.checkpoints import Checkpoint, CheckpointFile

KEPT = Checkpoint({"epochs": 3, "best": 0.5}, {"a": [np.arange(4.0), np.eye(2, dtype=np.int64)], "none": []})


def test_comes_back_as_it_was(tmp_path):
    file = CheckpointFile(str(tmp_path / "new" / "x.npz"), "key")
    assert file.read() is None
    file.write(Checkpoint({}, {}))
    file.write(KEPT)
    found = file.read()
    assert found.state == KEPT.state and found.arrays["none"] == []
    for one, other in zip(found.arrays["a"], KEPT.arrays["a"], strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.npz"]
    file.delete()
    assert file.read() is None and not list((tmp_path / "new").iterdir())


def test_of_another_training_is_not_read(tmp_path):
    path = str(tmp_path / "x.npz")
    CheckpointFile(path, "one").write(KEPT)
    assert CheckpointFile(path, "other").read() is None


def test_a_damaged_one_is_said_and_passed_over(tmp_path, caplog):
    path = tmp_path / "x.npz"
    file = CheckpointFile(str(path), "key")
    file.write(KEPT)
    content = path.read_bytes()
    for damaged in (content[:100], b"", content[:200] + b"\0" * 64 + content[264:]):
        caplog.clear()
        path.write_bytes(damaged)
        assert file.read() is None
        assert "Training starts from the beginning" in caplog.text


def test_without_a_path_nothing_is_kept():
    file = CheckpointFile(None, "key")
    file.write(KEPT)
    assert file.read() is None
    file.delete()
