"""The informative line of a long error."""

import pytest
import tensorflow as tf

from trainer_module.error_text import first_line


def test_the_cause_without_heading_and_node():
    message = "Graph execution error:\n\n{{function_node f}} {{node n}} Could not find variable x. [Op:Relu]\n\t [[n]]"
    assert first_line(tf.errors.FailedPreconditionError(None, None, message)) == "Could not find variable x."


@pytest.mark.parametrize(
    ("error", "line"), [(ValueError("one\ntwo"), "one"), (KeyError(), "KeyError"), (OSError("x" * 999), "x" * 300)]
)
def test_other_errors(error, line):
    assert first_line(error) == line
