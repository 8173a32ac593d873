"""Does the exported model answer in a session, as TF Serving runs it, what the Keras model answers?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer_module import features, tasks
from trainer_module.error_text import first_line
from trainer_module.options import TrainerOptions
from trainer_module.session_model import SessionModel


class Check(NamedTuple):
    """The result of one check.

    Attributes:
      name: What was checked.
      passed: Whether the model may be pushed as far as this check goes.
      detail: The figure, or what went wrong.
    """

    name: str
    passed: bool
    detail: str


def validate(
    export_dir: str,
    model: keras.Model,
    options: TrainerOptions,
    serialized_examples: Sequence[bytes],
    tolerance: float,
) -> list[Check]:
    """Loads the export in a session and asks it with real examples.

    Args:
      export_dir: The SavedModel.
      model: The trained Keras model, from pixels to logits.
      options: The configuration of the run.
      serialized_examples: Raw examples, at least one.
      tolerance: Largest difference of a probability, or share of a mask's pixels, that counts as equal.

    Returns:
      Every check that could be made; the export is good if all have passed.
    """
    task = tasks.of(options)
    try:
        served = SessionModel(export_dir)
    except Exception as error:  # the loader's errors have no common class
        return [Check("loads in a session", False, first_line(error))]
    try:
        checks = [Check("loads in a session", True, f"signatures: {', '.join(sorted(served.signatures))}")]
        missing = [name for name in task.REQUIRED_SIGNATURES if name not in served.signatures]
        checks.append(Check("has all signatures", not missing, f"missing: {', '.join(missing)}" if missing else "yes"))
        image_bytes = [_image_of(serialized) for serialized in serialized_examples]
        expected = task.expected(model, options, image_bytes)
        for signature, values in (
            (features.SERVING_DEFAULT, image_bytes),
            (features.EXAMPLES, list(serialized_examples)),
        ):
            if signature in served.signatures:
                checks.append(_compare(served, signature, values, expected, options, tolerance))
        for signature in (features.EXPLAIN, features.EMBED):
            if signature in served.signatures:
                checks.append(_answers(served, signature, image_bytes))
        return checks
    finally:
        served.close()


def _compare(
    served: SessionModel,
    signature: str,
    values: Sequence[bytes],
    expected: np.ndarray,
    options: TrainerOptions,
    tolerance: float,
) -> Check:
    name = f"{signature} agrees with the Keras model"
    try:
        passed, detail = tasks.of(options).compare(served.run_on(signature, values), expected, options, tolerance)
    except Exception as error:
        return Check(name, False, first_line(error))
    return Check(name, passed, f"{len(values)} examples, {detail}" if passed else detail)


def _answers(served: SessionModel, signature: str, image_bytes: Sequence[bytes]) -> Check:
    try:
        answer = served.run_on(signature, image_bytes)
    except Exception as error:
        return Check(f"{signature} answers", False, first_line(error))
    for name, value in answer.items():
        if len(value) != len(image_bytes):
            return Check(f"{signature} answers", False, f"{name} has {len(value)} rows for {len(image_bytes)} pictures")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return Check(f"{signature} answers", False, f"{name} is not finite")
    return Check(f"{signature} answers", True, f"{len(image_bytes)} pictures")


def _image_of(serialized: bytes) -> bytes:
    example = tf.train.Example.FromString(serialized)
    return bytes(example.features.feature[features.IMAGE_ENCODED].bytes_list.value[0])
