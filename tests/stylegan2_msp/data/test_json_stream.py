"""Streaming one array gives what json.loads gives, for any JSON and for what is none."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan2_msp.data.json_stream import load_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from(["labels", "a", "é"]), VALUES, max_size=3)
QUICK = settings(max_examples=300, deadline=None, derandomize=True)


def outcome(load: Any, data: bytes) -> Any:
    try:
        return load(data)
    except ValueError:
        return ValueError


@QUICK
@given(value=OBJECTS | VALUES, indent=st.sampled_from([None, 0, 3]), ascii_only=st.booleans())
def test_the_same_as_json(value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert load_object(f" {text}\n".encode(), "labels", list) == value


@QUICK
@given(
    value=OBJECTS,
    place=st.floats(0, 1, exclude_max=True),
    new=st.sampled_from(["", ",", ":", "]", "[", "}", '"', "1", " ", "\\", "nul"]),
    removed=st.integers(0, 2),
)
def test_damaged_text_is_refused_where_json_refuses_it(value: Any, place: float, new: str, removed: int) -> None:
    text = json.dumps(value)
    at = int(place * len(text))
    data = (text[:at] + new + text[at + removed :]).encode()
    assert outcome(lambda d: load_object(d, "labels", list), data) == outcome(json.loads, data)


def test_elements_come_one_by_one_and_the_rest_is_still_checked() -> None:
    taken = load_object(b'{"labels": [1, 2, 3, 4], "b": 5}', "labels", lambda elements: list(islice(elements, 2)))
    assert taken == {"labels": [1, 2], "b": 5}
    with pytest.raises(ValueError, match="delimiter"):
        load_object(b'{"labels": [1, 2, 3 4]}', "labels", lambda elements: next(elements))


def test_an_inner_key_of_the_same_name_is_left_alone() -> None:
    assert load_object(b'{"a": {"labels": [1]}}', "labels", lambda _: "taken") == {"a": {"labels": [1]}}
