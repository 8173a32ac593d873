"""Error messages for users: the informative line of a library's error, the nearest known word."""

import difflib
from collections.abc import Iterable

# Lines that TensorFlow prints before the cause: headings, and the source line of the operation.
_HEADINGS = ("Graph execution error:", "Detected at node", "<stack traces unavailable>", 'File "')


def first_line(error: BaseException) -> str:
    """Shortens an error's text to its first informative line, at most 300 characters.

    TensorFlow puts the failing operation in braces before the cause, and headings before both.
    """
    text = str(getattr(error, "message", None) or error) or type(error).__name__
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(_HEADINGS)]
    line = lines[0] if lines else type(error).__name__
    return line.split("}} ")[-1].split(" [Op:")[0][:300]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns `. Did you mean ...?` with the nearest known word, or nothing if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f". Did you mean `{near[0]}`?" if near else ""
