"""The files of the request log: framing, rotation, recovery, retention, and disks that fail."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from serving import tfrecord
from serving.request_log import files
from serving.request_log.background import BackgroundLog, Count
from serving.request_log.files import JSON_LINES, TFRECORD, RotatingFiles
from serving.request_log.options import Rotation


def records(path: Path) -> list[bytes]:
    """Reads a complete file."""
    with open(path, "rb") as file:
        return [data for _, data in tfrecord.records(file)]


def all_records(prefix: Path) -> list[bytes]:
    """Reads all published files."""
    return [data for path in files.published(prefix, TFRECORD) for data in records(path)]


def test_records_are_read_as_they_were_written() -> None:
    # That TensorFlow reads them too: tests/component/test_request_log.py.
    file = io.BytesIO(tfrecord.frame(b"abc") + tfrecord.frame(b""))
    assert list(tfrecord.records(file)) == [(19, b"abc"), (35, b"")]


def test_a_record_after_one_with_damaged_data_is_read() -> None:
    content = bytearray(tfrecord.frame(b"first") + tfrecord.frame(b"second"))
    content[13] ^= 1
    file = io.BytesIO(bytes(content))
    with pytest.raises(tfrecord.DamagedRecordError, match="corrupted record at 0"):
        list(tfrecord.records(file))
    assert [data for _, data in tfrecord.records(file)] == [b"second"]


def test_files_appear_when_they_are_complete(tmp_path: Path) -> None:
    log = RotatingFiles(tmp_path / "log", TFRECORD, Rotation(max_bytes=100))
    log.append(tfrecord.frame(b"x" * 60))
    assert not files.published(tmp_path / "log", TFRECORD)
    assert [path.name[0] for path in tmp_path.iterdir()] == ["."]
    log.append(tfrecord.frame(b"y" * 60))
    assert all_records(tmp_path / "log") == [b"x" * 60]
    log.complete()
    assert all_records(tmp_path / "log") == [b"x" * 60, b"y" * 60]


def test_files_rotate_by_age(tmp_path: Path) -> None:
    log = BackgroundLog("log", RotatingFiles(tmp_path / "log", TFRECORD, Rotation(max_age_s=0.05)))
    log.offer(lambda: tfrecord.frame(b"x"), 1)
    wait_for(lambda: all_records(tmp_path / "log") == [b"x"])
    log.close()


def test_old_files_are_deleted_by_age_and_volume(tmp_path: Path) -> None:
    prefix = tmp_path / "log"
    log = RotatingFiles(prefix, TFRECORD, Rotation(max_bytes=1, keep_bytes=250, keep_s=1000))
    other = tmp_path / "log-other-20260101T000000000000Z-h-1-00000000-000001.tfrecord"
    other.write_bytes(b"z" * 1000)
    for letter in b"abcd":
        log.append(tfrecord.frame(bytes([letter]) * 84))  # 100 bytes each
    assert [data[:1] for data in all_records(prefix)] == [b"c", b"d"]
    newest = files.published(prefix, TFRECORD)[-1]
    os.utime(newest, (0, time.time() - 2000))
    log.delete_old()
    assert [data[:1] for data in all_records(prefix)] == [b"c"]
    assert other.exists()


_WRITER = """
import sys, time
from pathlib import Path
from serving import tfrecord
from serving.request_log.files import TFRECORD, RotatingFiles
from serving.request_log.options import Rotation
log = RotatingFiles(Path(sys.argv[1]), TFRECORD, Rotation())
log.append(tfrecord.frame(b"a") + tfrecord.frame(b"b"))
log.append(tfrecord.frame(b"c" * 100)[:50])
print("ready", flush=True)
time.sleep(60)
"""


def test_complete_records_of_a_killed_process_are_recovered(tmp_path: Path) -> None:
    prefix = tmp_path / "log"
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(prefix)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout and process.stdout.readline() == b"ready\n"
    log = RotatingFiles(prefix, TFRECORD, Rotation())
    assert log.recover() == 0  # it runs
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert log.recover() == 1
    assert all_records(prefix) == [b"a", b"b"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_lines_are_recovered(tmp_path: Path) -> None:
    log = RotatingFiles(tmp_path / "log", JSON_LINES, Rotation())
    log.append(b"{}\n{")
    assert log._file is not None
    log._file.close()
    assert RotatingFiles(tmp_path / "log", JSON_LINES, Rotation()).recover() == 1
    assert [path.read_bytes() for path in files.published(tmp_path / "log", JSON_LINES)] == [b"{}\n"]


def test_writers_share_a_prefix(tmp_path: Path) -> None:
    first, second = (RotatingFiles(tmp_path / "log", TFRECORD, Rotation()) for _ in range(2))
    first.append(tfrecord.frame(b"1"))
    second.append(tfrecord.frame(b"2"))
    assert first.recover() == second.recover() == 0
    first.complete()
    second.complete()
    assert sorted(all_records(tmp_path / "log")) == [b"1", b"2"]


def wait_for(condition: object, timeout_s: float = 20.0) -> None:
    """Waits until a condition holds."""
    end = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def counter(counts: Counter[str]) -> Count:
    """Adds what a log counts."""
    return lambda name, number: counts.update({name: number})


def test_a_failing_disk_loses_no_queued_record_and_logs_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "missing"
    folder.write_text("a file in the place of the folder")
    caplog.set_level(logging.INFO)
    counts: Counter[str] = Counter()
    log_files = RotatingFiles(folder / "log", TFRECORD, Rotation())
    log = BackgroundLog("The log", log_files, count=counter(counts), max_records=2)
    assert log.offer(lambda: tfrecord.frame(b"1"), 1)
    wait_for(lambda: counts["errors"] > 1)
    assert log.offer(lambda: tfrecord.frame(b"2"), 1)
    assert not log.offer(lambda: tfrecord.frame(b"3"), 1)
    folder.unlink()
    assert log.flush()
    log.close()
    assert all_records(folder / "log") == [b"1", b"2"]
    assert (counts["logged"], counts["dropped"]) == (2, 1)
    lines = [record.message for record in caplog.records]
    assert sum("cannot be written" in line for line in lines) == 1
    assert sum("is written again" in line for line in lines) == 1
    assert sum("records are dropped" in line for line in lines) == 1


class FullDisk(RotatingFiles):
    """Writes half of the data once, and then reports a full disk."""

    full = True

    def append(self, data: bytes) -> None:
        """Fails once."""
        if self._file is not None and self.full:
            self.full, file = False, self._file
            file.write(data[: len(data) // 2])

            class Full:
                def write(self, view: memoryview) -> int:
                    raise OSError(28, "No space left on device")

                def __getattr__(self, name: str) -> object:
                    return getattr(file, name)

                def __enter__(self) -> object:
                    return file

                def __exit__(self, *_: object) -> None:
                    file.close()

            self._file = Full()  # type: ignore[assignment]
        super().append(data)


def test_a_record_that_was_written_in_part_is_cut(tmp_path: Path) -> None:
    log = BackgroundLog("The log", FullDisk(tmp_path / "log", TFRECORD, Rotation()))
    for name in (b"1", b"2", b"3"):
        log.offer(lambda name=name: tfrecord.frame(name), 1)  # type: ignore[misc]
        wait_for(lambda: not log._pending)
    assert log.flush()
    log.close()
    assert all_records(tmp_path / "log") == [b"1", b"2", b"3"]


def test_a_slow_disk_delays_nobody(tmp_path: Path) -> None:
    released = threading.Event()

    def slow() -> bytes:
        released.wait(20)
        return tfrecord.frame(b"slow")

    log = BackgroundLog("The log", RotatingFiles(tmp_path / "log", TFRECORD, Rotation()), max_bytes=100)
    log.offer(slow, 60)
    assert not log.offer(lambda: b"", 60)  # the bytes of the record in progress count
    assert log.offer(lambda: tfrecord.frame(b"small"), 40)
    released.set()
    assert log.flush()
    log.close()
    assert all_records(tmp_path / "log") == [b"slow", b"small"]


def test_a_record_that_cannot_be_encoded_is_counted(tmp_path: Path) -> None:
    outcomes: list[bool] = []
    counts: Counter[str] = Counter()
    log = BackgroundLog("The log", RotatingFiles(tmp_path / "log", TFRECORD, Rotation()), count=counter(counts))
    log.offer(lambda: bytes(1 // 0), 1, outcomes.append)
    log.offer(lambda: tfrecord.frame(b"1"), 1, outcomes.append)
    log.close()
    assert outcomes == [False, True]
    assert (counts["errors"], counts["logged"]) == (1, 1)
    assert all_records(tmp_path / "log") == [b"1"]
