"""The processors on which a precision is emulated."""

import pytest
import tensorflow as tf

from trainer_module import precision


@pytest.mark.parametrize(
    ("flags", "slow"),
    [
        ("fpu avx2", {"mixed_bfloat16", "mixed_float16"}),
        ("fpu avx512f avx512_bf16", {"mixed_float16"}),
        ("amx_bf16 amx_fp16", set()),
        (None, set()),
    ],
)
def test_emulated_precision_is_named(tmp_path, monkeypatch, flags, slow):
    processors = tmp_path / "cpuinfo"
    if flags:
        processors.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: spectre_v1\n")
    monkeypatch.setattr(precision, "_PROCESSORS", processors)
    names = ("float32", "mixed_bfloat16", "mixed_float16")
    assert {name for name in names if precision.slowness(name)} == slow
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    assert not any(map(precision.slowness, names))
