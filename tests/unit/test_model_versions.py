"""The folder of versions: atomic pushes, deletion of old versions, rollback."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import tensorflow as tf

from trainer_module import locations, model_versions
from trainer_module.model_versions import VersionError, Versions


@pytest.fixture
def model(tmp_path):
    """A folder like a SavedModel, with a variables file that takes some time to write."""
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "assets.extra").mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables/variables.data").write_bytes(os.urandom(8 << 20))
    (folder / "assets.extra/labels.json").write_text('["a"]')
    return folder


@pytest.fixture
def base(tmp_path):
    return tmp_path / "served"


@pytest.fixture
def clock(monkeypatch):
    """Every push happens in the same second unless the test changes the time."""
    now = [1_700_000_000]
    monkeypatch.setattr(model_versions.time, "time", lambda: now[0])
    return now


def push(model, base, **arguments):
    return model_versions.push(str(model), str(base), **arguments)


def names(base):
    return sorted(path.name for path in base.iterdir())


def test_a_version_is_the_model_and_a_manifest(model, base, clock):
    pushed = push(model, base, provenance={"model": "source"})
    assert pushed == (1_700_000_000, f"{base}/1700000000", ())
    folder = Path(pushed.path)
    for path in model.rglob("*"):
        assert path.is_dir() or (folder / path.relative_to(model)).read_bytes() == path.read_bytes()
    manifest = json.loads((folder / "assets.extra/manifest.json").read_text())
    assert manifest["version"] == pushed.version and manifest["model"] == "source"
    assert set(manifest["files"]) == {"saved_model.pb", "variables/variables.data", "assets.extra/labels.json"}
    assert model_versions.differences(pushed.path) == [] and names(base) == ["1700000000"]


def test_numbers_always_increase(model, base, clock):
    numbers = [push(model, base).version, push(model, base).version]
    clock[0] -= 500
    numbers.append(push(model, base).version)
    model_versions.roll_back(str(base))
    numbers.append(push(model, base).version)
    assert numbers == sorted(set(numbers))


def test_old_versions_are_deleted_and_the_newest_two_stay(model, base, clock):
    versions = [push(model, base).version for _ in range(4)]
    pushed = push(model, base, keep=3)
    assert pushed.removed == (versions[1], versions[0])
    assert model_versions.list_versions(str(base)) == Versions((pushed.version, versions[3], versions[2]), ())
    assert names(base) == sorted(map(str, (versions[2], versions[3], pushed.version)))
    with pytest.raises(ValueError, match="at least 2"):
        push(model, base, keep=1)


def test_withdrawn_versions_older_than_the_kept_ones_are_deleted(model, base, clock):
    first, second, third = (push(model, base).version for _ in range(3))
    model_versions.roll_back(str(base), first)
    fourth = push(model, base, keep=2)
    assert model_versions.list_versions(str(base)) == Versions((fourth.version, first), (third, second))
    fifth = push(model, base, keep=2)
    assert set(fifth.removed) == {first, second, third}


def test_rolling_back_and_forth(model, base, clock):
    first, second, third = (push(model, base).version for _ in range(3))
    path = f"{base}/{third}"
    assert model_versions.is_newest(path) and not model_versions.is_withdrawn(path)
    assert model_versions.roll_back(str(base)) == Versions((second, first), (third,))
    assert not model_versions.is_newest(path) and model_versions.is_withdrawn(path)
    assert model_versions.roll_back(str(base)) == Versions((first,), (third, second))
    assert model_versions.roll_back(str(base), third) == Versions((third, first), (second,))
    assert model_versions.differences(path) == []


def test_impossible_rollbacks_change_nothing(model, base, clock):
    with pytest.raises(VersionError, match="no version: there is no earlier version"):
        model_versions.roll_back(str(base))
    only = push(model, base).version
    with pytest.raises(VersionError, match=f"contains {only}: there is no earlier version"):
        model_versions.roll_back(str(base))
    with pytest.raises(VersionError, match=f"does not contain version 7. It contains {only}"):
        model_versions.roll_back(str(base), 7)
    push(model, base)
    (base / str(only) / "variables/variables.data").write_bytes(b"other")
    with pytest.raises(VersionError, match=r"nothing was changed: variables/variables\.data has changed"):
        model_versions.roll_back(str(base))
    assert len(model_versions.list_versions(str(base)).served) == 2


def test_differences_from_the_manifest(model, base):
    folder = Path(push(model, base).path)
    (folder / "assets.extra/tf_serving_warmup_requests").write_text("x")
    assert model_versions.differences(str(folder)) == []
    (folder / "assets.extra/labels.json").unlink()
    (folder / "variables/variables.data").write_bytes(b"other")
    assert model_versions.differences(str(folder)) == [
        "assets.extra/labels.json is missing",
        "variables/variables.data has changed",
    ]
    (folder / "assets.extra/manifest.json").write_text("{")
    assert model_versions.differences(str(folder)) == ["assets.extra/manifest.json is damaged"]
    (folder / "saved_model.pb").unlink()
    assert model_versions.differences(str(folder)) == ["saved_model.pb is missing"]
    # A model without a manifest cannot be compared.
    assert model_versions.differences(str(model)) == []


def test_a_full_disk_leaves_no_version(model, base, monkeypatch):
    push(model, base)
    before = names(base)

    def full(path):
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(locations, "sync", full)
    with pytest.raises(OSError, match="No space left"):
        push(model, base)
    assert names(base) == before


def test_a_push_killed_at_any_time_leaves_only_complete_versions(model, base):
    random.seed(3)
    start = time.perf_counter()
    push(model, base)
    usual = time.perf_counter() - start
    killed = 0
    for attempt in range(100):
        if killed == 5:
            break
        pid = os.fork()
        if pid == 0:  # the child uses files only, no threads of TensorFlow
            try:
                push(model, base)
            finally:
                os._exit(0)
        time.sleep(random.uniform(0.0, usual) if attempt else 0.0)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        killed += os.WIFSIGNALED(status)
        versions = model_versions.list_versions(str(base))
        assert versions.served and not versions.withdrawn
        assert [model_versions.differences(f"{base}/{version}") for version in versions.served] == [[]] * len(
            versions.served
        )
        assert {int(name) for name in names(base) if name.isdigit()} == set(versions.served)
    assert killed == 5
    push(model, base)
    assert not [name for name in names(base) if not name.isdigit()]


def test_two_simultaneous_pushes_are_two_versions(model, base, clock):
    pids = []
    for _ in range(2):
        if (pid := os.fork()) == 0:
            try:
                push(model, base)
            finally:
                os._exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    versions = model_versions.list_versions(str(base))
    assert len(versions.served) == 2
    assert not any(model_versions.differences(f"{base}/{version}") for version in versions.served)


def test_running_pushes_are_not_disturbed(model, base):
    base.mkdir()
    (base / ".staging-5-another.machine-1").mkdir()
    (base / f".staging-6-{model_versions.socket.gethostname()}-{os.getppid()}").mkdir()
    (base / "notes").mkdir()
    push(model, base)
    assert len(names(base)) == 4


def test_versions_in_an_object_store(model, clock):
    base = "ram://versions/model"
    first, second = (model_versions.push(str(model), base, keep=2) for _ in range(2))
    assert tf.io.gfile.exists(f"{base}/{first.version}/saved_model.pb")
    third = model_versions.push(str(model), base, keep=2)
    assert third.removed == (first.version,)
    assert model_versions.list_versions(base) == Versions((third.version, second.version), ())
    assert model_versions.differences(third.path) == []
    assert model_versions.roll_back(base) == Versions((second.version,), (third.version,))
    assert model_versions.roll_back(base, third.version) == Versions((third.version, second.version), ())
