"""Error messages for users: the informative part of a library's error, the nearest known word."""

import difflib
import errno
import re
from collections.abc import Iterable, Iterator, Sequence

# Lines that TensorFlow and Python print around the cause: headings, and source lines.
_HEADINGS = ("Graph execution error:", "Detected at node", "<stack traces unavailable>", 'File "', "[[{{", "[[")
_TRACEBACKS = ("Traceback (most recent call last)", "in user code:")
_SOURCE = r"(?:/[\w.+-]+)+\.(?:py|cc|cpp|c|h|cu)"
_NOISE = re.compile(
    r"\{\{[^{}]*\}\}\s?"  # the failing node of a graph
    r"|\s?\[Op:[^\]]*\](?: name:.*)?"  # the failing operation
    r"|\s?\[while running [^\]]*\]"  # Beam's step
    r"|\s?\(?(?:on |device )?/job:[^\s)]+\)?"  # a device
    rf"|\s?\(?(?:at |in |from )?{_SOURCE}:\d+\)?:?"  # a line of a source file
    r"|\s?<[^<>]*\bat 0x[0-9a-fA-F]+>"  # an object of Python
)
_CLASS_NAME = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Exhausted): ")
_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")

# Reasons of the operating system, of TensorFlow and of SQLite.
_FULL = re.compile(r"(?:(?P<path>\S+); )?(?:No space left on device|Disk quota exceeded|database or disk is full)")
_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)


def first_line(error: BaseException) -> str:
    """Shortens an error's text to its first informative line, at most 300 characters.

    TensorFlow puts the failing operation in braces before the cause, and headings before both.
    """
    lines = plain_text(error).splitlines()
    return lines[0][:300]


def plain_text(error: BaseException) -> str:
    """Returns an error's text without what only a developer can use.

    Removes nodes, operations, devices, steps of Beam, class names, objects of Python and lines of source files. The
    text is never empty: an error without text is described by its class name in words.
    """
    text = str(getattr(error, "message", None) or error)
    if isinstance(error, KeyError) and text:
        text = f"missing key {text}"
    if any(heading in text for heading in _TRACEBACKS):  # of another process or a graph: it ends with the cause
        text = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    lines = [_NOISE.sub("", line).rstrip() for line in text.splitlines() if not line.strip().startswith(_HEADINGS)]
    lines = [line for line in lines if line.strip()]
    if lines:
        lines[0] = _CLASS_NAME.sub("", lines[0].strip())
    return "\n".join(lines) or _WORD.sub(" ", type(error).__name__).lower()


def full_disk(error: BaseException) -> str | None:
    """Returns what a full disk prevented from being written: a path, empty if unknown; None for any other error."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in _FULL_ERRNOS:
            return str(cause.filename or "")
        if match := _FULL.search(str(cause)):
            return match["path"] or ""
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and those that caused it."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns `. Did you mean ...?` with the nearest known word, or nothing if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f". Did you mean `{near[0]}`?" if near else ""


def listed(names: Sequence[str], most: int = 10) -> str:
    """Joins the first names, quoted, and the number of the others."""
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")
