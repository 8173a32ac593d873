"""Parses JSON text, with RapidJSON's extensions and error messages."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from serving.local_server.errors import invalid_argument

NUMBER_TOO_BIG = "JSON Parse error: Number too big to be stored in double. at offset: 0"
# Members whose numbers are checked when they become tensors or examples.
_CONVERTED = {"instances", "inputs", "examples", "context"}
# A value in an error message ends with the token at which it exceeds this length, as in TF Serving.
_MAX_SHOWN = 256
# Of one such token. TF Serving has no limit.
_MAX_SHOWN_TOKEN = 10_000
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
# Tokens outside of strings that RapidJSON reads as numbers, and Python does not.
_OTHER_NUMBERS = re.compile(r'"(?:[^"\\]|\\.)*"|-NaN|Inf(?!inity)', re.DOTALL)
# The standard library's messages → RapidJSON's.
_MESSAGES = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Illegal trailing comma before end of object": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid control character at": "Invalid encoding in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
}


class RepeatedKeys(dict[str, Any]):
    """An object in which a key occurs several times; a look-up finds the first one, as RapidJSON's does.

    Attributes:
      last: The last value of every key.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        """Takes all members."""
        super().__init__()
        for key, value in pairs:
            self.setdefault(key, value)
        self.last = dict(pairs)


class _Infinity(float):
    """An infinite number that was written as such; other infinite numbers are too large for a double."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    return members if len(members) == len(pairs) else RepeatedKeys(pairs)


_CONSTANTS = {"NaN": math.nan, "Infinity": _Infinity("inf"), "-Infinity": _Infinity("-inf")}
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_CONSTANTS.__getitem__)


def parse(body: bytes) -> dict[str, Any]:
    """Parses the JSON object of a request; ignores trailing text, accepts NaN and Infinity as numbers.

    Bytes in strings that are not UTF-8 stay unchanged.
    """
    text = body.decode("utf-8", "surrogateescape").lstrip(" \t\r\n").removeprefix("\ufeff")
    if not text:
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        value = _decode(text)
    except json.JSONDecodeError as error:
        message = _message(error.doc, error)
        raise invalid_argument(f"JSON Parse error: {message} at offset: {error.pos}") from None
    except RecursionError:
        raise invalid_argument("JSON Parse error: nested too deeply at offset: 0") from None
    except ValueError:  # a number with more digits than Python parses
        raise invalid_argument(NUMBER_TOO_BIG) from None
    if not isinstance(value, dict):
        raise invalid_argument(f"JSON Value: {shown(value)} Is not object")
    for key, member in value.items():
        if key not in _CONVERTED:
            _check_numbers(member)
    return value


def _check_numbers(value: Any) -> None:
    """Refuses numbers beyond the range of double, as RapidJSON does wherever they are."""
    rest = [value]
    while rest:
        part = rest.pop()
        if isinstance(part, dict | list):
            rest.extend(part.values() if isinstance(part, dict) else part)
        elif isinstance(part, int | float):
            as_double(part)


def as_double(value: int | float) -> float:
    """Returns the nearest double of a JSON number.

    Raises:
      RequestError: INVALID_ARGUMENT, if it is beyond the range of doubles.
    """
    try:
        double = float(value)
    except OverflowError:
        double = math.inf
    if math.isinf(double) and not isinstance(value, _Infinity):
        raise invalid_argument(NUMBER_TOO_BIG)
    return double


def _decode(text: str) -> Any:
    try:
        return _DECODER.raw_decode(text)[0]
    except json.JSONDecodeError as error:
        if not text.startswith(("Inf", "NaN"), error.pos + text.startswith("-", error.pos)):
            raise
    # Tokens keep their length where possible, so that the offsets of errors stay close.
    standard = _OTHER_NUMBERS.sub(lambda match: {"-NaN": " NaN", "Inf": "Infinity"}.get(match[0], match[0]), text)
    return _DECODER.raw_decode(standard)[0]


def shown(value: Any) -> str:
    """Formats a value for an error message, as TF Serving does: objects are indented, arrays on one line."""
    text = ""
    for token in _tokens(value, 0):
        if len(text) >= _MAX_SHOWN:
            break
        text += token[:_MAX_SHOWN_TOKEN]
    return text


def _tokens(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, dict):
        yield "{"
        for index, (key, item) in enumerate(value.items()):
            yield ("," if index else "") + "\n" + "    " * (depth + 1) + json.dumps(key, ensure_ascii=False) + ": "
            yield from _tokens(item, depth + 1)
        yield ("\n" + "    " * depth if value else "") + "}"
    elif isinstance(value, list):
        yield "["
        for index, item in enumerate(value):
            if index:
                yield ", "
            yield from _tokens(item, depth + 1)
        yield "]"
    else:
        text = json.dumps(value, ensure_ascii=False)
        yield text.replace("e+", "e") if isinstance(value, float) else text


def type_name(value: Any) -> str:
    """Returns RapidJSON's name of a value's type."""
    if isinstance(value, bool) or value is None:
        return {True: "True", False: "False", None: "Null"}[value]
    names = ((str, "String"), (int | float, "Number"), (list, "Array"), (dict, "Object"))
    return next(name for kind, name in names if isinstance(value, kind))


def is_base64(value: Any) -> bool:
    """Whether a value represents bytes: an object with the string `b64` as its only key."""
    return (
        isinstance(value, dict)
        and len(value) == 1
        and isinstance(value.get("b64"), str)
        and not isinstance(value, RepeatedKeys)
    )


def _message(text: str, error: json.JSONDecodeError) -> str:
    if error.msg != "Expecting ',' delimiter":
        return next((ours for theirs, ours in _MESSAGES.items() if error.msg.startswith(theirs)), error.msg)
    opened = ""
    for token in _STRUCTURE.finditer(text, 0, error.pos):
        if token[0] in "[{":
            opened += token[0]
        elif token[0] in "]}":
            opened = opened[:-1]
    if opened.endswith("["):
        return "Missing a comma or ] after an array element."
    return "Missing a comma or } after an object member."
