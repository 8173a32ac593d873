"""Parses JSON text, with RapidJSON's error messages."""

from __future__ import annotations

import json
import re
from typing import Any

from serving.local_server.errors import invalid_argument

# Values in error messages are truncated to this length.
_MAX_SHOWN = 256
_DECODER = json.JSONDecoder()
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
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


def parse(body: bytes) -> dict[str, Any]:
    """Parses the JSON object of a request; ignores trailing text, accepts NaN and Infinity as numbers.

    Bytes in strings that are not UTF-8 stay unchanged.
    """
    text = body.decode("utf-8", "surrogateescape").lstrip(" \t\r\n").removeprefix("\ufeff")
    if not text:
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        value, _ = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise invalid_argument(f"JSON Parse error: {_message(text, error)} at offset: {error.pos}") from None
    except RecursionError:
        raise invalid_argument("JSON Parse error: nested too deeply at offset: 0") from None
    except ValueError:  # a number with more digits than Python parses
        raise invalid_argument("JSON Parse error: Number too big to be stored in double. at offset: 0") from None
    if not isinstance(value, dict):
        raise invalid_argument(f"JSON Value: {shown(value)} Is not object")
    return value


def shown(value: Any) -> str:
    """Formats a value for an error message."""
    text = json.dumps(value, indent=4, ensure_ascii=True)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "...TRUNCATED"


def type_name(value: Any) -> str:
    """Returns RapidJSON's name of a value's type."""
    if isinstance(value, bool) or value is None:
        return {True: "True", False: "False", None: "Null"}[value]
    return {str: "String", int: "Number", float: "Number", list: "Array", dict: "Object"}[type(value)]


def is_base64(value: Any) -> bool:
    """Whether a value represents bytes: an object with the string `b64` as its only key."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


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
