"""Reading JSON text, and saying what is wrong with it, in RapidJSON's words."""

from __future__ import annotations

import json
import re
from typing import Any

from serving.local_server.errors import RequestError

# Values inside error messages are cut at this length.
_SHOWN = 256
_DECODER = json.JSONDecoder()
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
# The standard library's words → RapidJSON's.
_WORDS = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Illegal trailing comma before end of object": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid control character at": "Invalid encoding in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
}


def parse(body: bytes) -> dict[str, Any]:
    """Reads the JSON object of a request; what follows it is ignored, NaN and Infinity are numbers.

    Bytes that are no UTF-8 stay as they are inside of strings.

    Raises:
      RequestError: INVALID_ARGUMENT.
    """
    text = body.decode("utf-8", "surrogateescape").lstrip(" \t\r\n").removeprefix("\ufeff")
    if not text:
        raise RequestError("INVALID_ARGUMENT", "JSON Parse error: The document is empty")
    try:
        value, _ = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise RequestError(
            "INVALID_ARGUMENT", f"JSON Parse error: {_words(text, error)} at offset: {error.pos}"
        ) from None
    except RecursionError:
        raise RequestError("INVALID_ARGUMENT", "JSON Parse error: nested too deeply at offset: 0") from None
    except ValueError:  # a number of more digits than Python reads
        raise RequestError(
            "INVALID_ARGUMENT", "JSON Parse error: Number too big to be stored in double. at offset: 0"
        ) from None
    if not isinstance(value, dict):
        raise RequestError("INVALID_ARGUMENT", f"JSON Value: {shown(value)} Is not object")
    return value


def shown(value: Any) -> str:
    """A value inside of an error message."""
    text = json.dumps(value, indent=4, ensure_ascii=True)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "...TRUNCATED"


def type_name(value: Any) -> str:
    """RapidJSON's name of a value's type."""
    if isinstance(value, bool) or value is None:
        return {True: "True", False: "False", None: "Null"}[value]
    return {str: "String", int: "Number", float: "Number", list: "Array", dict: "Object"}[type(value)]


def is_base64(value: Any) -> bool:
    """Whether a value stands for bytes: an object of nothing but the string `b64`."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _words(text: str, error: json.JSONDecodeError) -> str:
    if error.msg != "Expecting ',' delimiter":
        return next((ours for theirs, ours in _WORDS.items() if error.msg.startswith(theirs)), error.msg)
    opened = ""
    for found in _STRUCTURE.finditer(text, 0, error.pos):
        if found[0] in "[{":
            opened += found[0]
        elif found[0] in "]}":
            opened = opened[:-1]
    if opened.endswith("["):
        return "Missing a comma or ] after an array element."
    return "Missing a comma or } after an object member."
