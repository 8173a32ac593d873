"""The informative part of a long error: nothing that only a developer can use, and a full disk is recognised."""

import errno
import io
import re

import pytest
import tensorflow as tf
from PIL import Image

from trainer_module.error_text import first_line, full_disk, plain_text

INTERNAL = re.compile(
    r"function_node|\{\{|\[Op:|\[while running|/job:|0x[0-9a-f]{4,}|\.(py|cc|h):\d|File \"|Error\b|_io\."
)


def op_error(message):
    return tf.errors.FailedPreconditionError(None, None, message)


def test_the_cause_without_heading_and_node():
    message = "Graph execution error:\n\n{{function_node f}} {{node n}} Could not find variable x. [Op:Relu]\n\t [[n]]"
    assert first_line(op_error(message)) == "Could not find variable x."


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (KeyError(), "key error"),
        (KeyError("a"), "missing key 'a'"),
        (OSError("x" * 999), "x" * 300),
    ],
)
def test_other_errors(error, line):
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            op_error(
                "{{function_node __wrapped__WriteFile_device_/job:localhost/replica:0/task:0/device:CPU:0}} "
                "/r/a; No space left on device [Op:WriteFile] name: "
            ),
            "/r/a; No space left on device",
        ),
        (
            RuntimeError(
                "tensorflow.python.framework.errors_impl.DataLossError: truncated record [while running 'A/B']"
            ),
            "truncated record",
        ),
        (
            RuntimeError(
                'Traceback (most recent call last):\n  File "/x/y.py", line 3, in f\n    g()\nValueError: no images\n'
            ),
            "no images",
        ),
        (
            op_error("OOM when allocating tensor on /job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0"),
            "OOM when allocating tensor by allocator GPU_0",
        ),
        (op_error("Invalid PNG data (at /tensorflow/core/kernels/decode_op.cc:123)"), "Invalid PNG data"),
        (ValueError("cannot identify image file <_io.BytesIO object at 0x7f31d8a2>"), "cannot identify image file"),
        (
            op_error('Detected at node x defined at:\n  File "/a/b.py", line 1, in <module>\nshapes do not match'),
            "shapes do not match",
        ),
        (ValueError("Two lines remain:\n  a/1.png: empty file"), "Two lines remain:\n  a/1.png: empty file"),
        (MemoryError(), "memory error"),
    ],
)
def test_nothing_internal_remains(error, text):
    assert plain_text(error) == text
    assert not INTERNAL.search(plain_text(error))


def test_real_errors_of_libraries_have_nothing_internal(tmp_path):
    def decode():
        tf.io.decode_png(b"no image")

    def missing():
        tf.io.read_file(str(tmp_path / "missing"))

    def graph():
        tf.function(lambda x: tf.reshape(x, [7]))(tf.zeros([3]))

    def restore():
        tf.train.load_checkpoint(str(tmp_path / "missing"))

    def pillow():
        Image.open(io.BytesIO(b"no image"))

    for fail in (decode, missing, graph, restore, pillow):
        with pytest.raises(Exception, match=r".") as raised:
            fail()
        assert not INTERNAL.search(plain_text(raised.value)), plain_text(raised.value)
        assert first_line(raised.value)


def wrapped(cause):
    try:
        try:
            raise cause
        except Exception as error:
            raise RuntimeError("the node failed") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "path"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/r/model"), "/r/model"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ""),
        (wrapped(OSError(errno.ENOSPC, "No space left on device")), ""),
        (tf.errors.ResourceExhaustedError(None, None, "/r/a; No space left on device"), "/r/a"),
        (RuntimeError("OSError: [Errno 28] No space left on device [while running 'Work']"), ""),
        (RuntimeError("Error when executing query: database or disk is full query: INSERT"), ""),
        (OSError(errno.ENOENT, "No such file or directory", "/r/a"), None),
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"), None),
    ],
)
def test_a_full_disk_is_recognised(error, path):
    assert full_disk(error) == path


@pytest.mark.parametrize("write", ["python", "gfile", "operation", "records"])
def test_a_device_that_is_full(tmp_path, write):
    """`/dev/full` refuses every byte, as a full disk does."""
    path = str(tmp_path / "data")
    (tmp_path / "data").symlink_to("/dev/full")
    content = b"x" * 100_000

    def fail():
        if write == "python":
            with open(path, "wb") as file:
                file.write(content)
        elif write == "gfile":
            with tf.io.gfile.GFile(path, "wb") as file:
                file.write(content)
        elif write == "operation":
            tf.io.write_file(path, content * 10)
        else:
            with tf.io.TFRecordWriter(path) as writer:
                writer.write(content * 10)

    with pytest.raises((OSError, tf.errors.OpError)) as raised:
        fail()
    assert full_disk(raised.value) is not None
    assert not INTERNAL.search(plain_text(raised.value).removeprefix("[Errno 28] "))
