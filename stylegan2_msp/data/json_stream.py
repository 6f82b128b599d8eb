"""A JSON object of which one array is handed over element by element, so that it need never be in memory whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

_DECODE = json.JSONDecoder().raw_decode
_SPACE = re.compile(r"[ \t\n\r]*")


def load_object(data: bytes, key: str, take: Callable[[Iterator[Any]], Any]) -> Any:
    """What `json.loads` gives, but where ``key`` of the outermost object holds an array its value is take(elements).

    The elements that ``take`` leaves are read all the same, since what follows them must be JSON too.

    Raises:
        ValueError: not JSON (also UnicodeDecodeError and json.JSONDecodeError).
        RecursionError: nested too deeply.
    """
    text = data.decode(json.detect_encoding(data))
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        return json.loads(text)
    content: dict[str, Any] = {}
    at = _skip(text, at + 1)
    more = text[at : at + 1] != "}"
    while more:
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, at)
        name, at = _DECODE(text, at)
        at = _skip(text, _sign(text, at, ":"))
        if name == key and text[at : at + 1] == "[":
            elements = _Elements(text, at + 1)
            content[name] = take(elements)
            for _ in elements:
                pass
            at = elements.at
        else:
            content[name], at = _DECODE(text, at)
        at = _skip(text, at)
        more = text[at : at + 1] == ","
        if more:
            at = _skip(text, at + 1)
    at = _skip(text, _sign(text, at, "}"))
    if at != len(text):
        raise json.JSONDecodeError("Extra data", text, at)
    return content


class _Elements(Iterator[Any]):
    """The elements of an array; ``at`` is the place of the next, or behind the array when all were given."""

    def __init__(self, text: str, at: int) -> None:
        self.text = text
        self.at = _skip(text, at)
        self.more = text[self.at : self.at + 1] != "]"
        if not self.more:
            self.at += 1

    def __next__(self) -> Any:
        if not self.more:
            raise StopIteration
        text = self.text
        value, at = _DECODE(text, self.at)
        if text[at : at + 1] != ",":
            at = _skip(text, at)
        self.more = text[at : at + 1] == ","
        self.at = _skip(text, at + 1) if self.more else _sign(text, at, "]")
        return value


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match is not None else at


def _sign(text: str, at: int, sign: str) -> int:
    """The place behind a sign that must come next."""
    at = _skip(text, at)
    if text[at : at + 1] != sign:
        raise json.JSONDecodeError(f"Expecting {sign!r} delimiter", text, at)
    return at + 1
