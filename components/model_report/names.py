"""Words as headings."""

from __future__ import annotations


def heading(words: str) -> str:
    """Words as the beginning of a sentence."""
    return words[0].upper() + words[1:]


def figure(name: str) -> str:
    """A column of the training history as a heading."""
    return heading(name.replace("_", " "))
