"""Does the exported model answer in a session, as TF Serving runs it, what the Keras model answers?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer_module import features, preprocessing
from trainer_module.error_text import first_line
from trainer_module.options import TrainerOptions
from trainer_module.session_model import SessionModel

REQUIRED_SIGNATURES = (
    features.SERVING_DEFAULT,
    features.EXAMPLES,
    features.CLASSIFY,
    features.EXPLAIN,
    features.EMBED,
)


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


def expected_probabilities(model: keras.Model, options: TrainerOptions, image_bytes: Sequence[bytes]) -> np.ndarray:
    """The Keras model's own answer, float32 [N, C]: the reference that the export is compared with."""
    pixels = preprocessing.decode_and_resize(
        tf.constant(list(image_bytes)), options.transform.image_size, options.transform.channels
    )
    probabilities: np.ndarray = tf.nn.softmax(model(tf.cast(pixels, tf.float32), training=False)).numpy()
    return probabilities


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
      tolerance: Largest difference of a probability that counts as equal.

    Returns:
      Every check that could be made; the export is good if all have passed.
    """
    try:
        served = SessionModel(export_dir)
    except Exception as error:  # the loader's errors have no common class
        return [Check("loads in a session", False, first_line(error))]
    try:
        checks = [Check("loads in a session", True, f"signatures: {', '.join(sorted(served.signatures))}")]
        missing = [name for name in REQUIRED_SIGNATURES if name not in served.signatures]
        checks.append(Check("has all signatures", not missing, f"missing: {', '.join(missing)}" if missing else "yes"))
        image_bytes = [_image_of(serialized) for serialized in serialized_examples]
        expected = expected_probabilities(model, options, image_bytes)
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
        answer = served.run_on(signature, values)
        difference = float(np.max(np.abs(answer["probabilities"] - expected)))
        labels = [label.decode() for label in answer["label"]]
    except Exception as error:
        return Check(name, False, first_line(error))
    if not difference <= tolerance:  # NaN is a failure too
        return Check(name, False, f"largest difference of a probability {difference:.2g}, allowed {tolerance:g}")
    if labels != [options.classes[index] for index in answer["probabilities"].argmax(axis=-1)]:
        return Check(name, False, "the labels are not those of the most probable classes")
    return Check(name, True, f"{len(values)} examples, largest difference of a probability {difference:.2g}")


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
