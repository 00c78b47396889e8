"""Files into records: where one ends and the next begins, whatever the bytes and their chunks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apprentice_pipeline.wire.imports.documents import form_of, records

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
NAMES = st.text(max_size=4).filter(lambda name: name not in {"data", "logs"})
"""Not what names the records of an API's page: those are taken out of it."""
OBJECTS = st.lists(st.dictionaries(NAMES, VALUES, max_size=3), max_size=5)


def chunked(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@given(objects=OBJECTS, size=st.integers(1, 40), indent=st.sampled_from([None, 2]))
def test_an_array_is_read_element_by_element_however_it_is_cut(
    objects: list[Any], size: int, indent: int | None
) -> None:
    marked = [{"place": place, **value} for place, value in enumerate(objects)]
    data = json.dumps(marked, indent=indent).encode()
    found = list(records("array", chunked(data, size)))
    assert found == list(enumerate(marked, 1))


@given(objects=OBJECTS, size=st.integers(1, 40))
def test_documents_one_after_another_are_each_read(objects: list[Any], size: int) -> None:
    marked = [{"place": place, **value} for place, value in enumerate(objects)]
    data = "\n".join(json.dumps(value, indent=1) for value in marked).encode()
    assert list(records("documents", chunked(data, size))) == list(enumerate(marked, 1))


@given(objects=OBJECTS, size=st.integers(1, 40))
def test_lines_are_numbered_as_an_editor_numbers_them(objects: list[Any], size: int) -> None:
    data = b"\n".join(json.dumps(value).encode() + b"\n" for value in objects)
    assert list(records("lines", chunked(data, size))) == [
        (2 * place + 1, value) for place, value in enumerate(objects)
    ]


@given(data=st.binary(max_size=200), form=st.sampled_from(["lines", "array", "documents"]))
def test_any_bytes_give_records_or_malformed_ones_and_never_raise(data: bytes, form: str) -> None:
    for number, value in records(form, chunked(data, 7)):
        assert number >= 1
        assert value is None or isinstance(value, dict)


def test_what_is_no_object_is_malformed_under_its_number_and_ends_nothing() -> None:
    found = list(records("array", [b'[{"a": 1}, 7, [2], {"b": }, {"c": "}]"} , {"d"']))
    assert found == [(1, {"a": 1}), (2, None), (3, None), (4, None), (5, {"c": "}]"}), (6, None)]


def test_a_page_of_an_api_is_read_through_to_its_records() -> None:
    page = {"object": "list", "data": [{"id": 1}, 7], "has_more": False}
    assert list(records("documents", [json.dumps(page).encode()])) == [(1, {"id": 1}), (2, None)]
    trace = {"info": {}, "data": {"spans": []}}
    assert list(records("documents", [json.dumps(trace).encode()])) == [(1, trace)]


def test_csv_keeps_line_ends_inside_fields_and_names_rows_of_another_width() -> None:
    text = '\ufeffid,input\r\n1,"a ""b""\nc"\r\n2\r\n3,é\r\n'
    found = list(records("csv", chunked(text.encode() + b"4,\xff\n", 5)))
    assert found == [
        (1, {"id": "1", "input": 'a "b"\nc'}),
        (2, None),
        (3, {"id": "3", "input": "é"}),
        (4, None),
    ]


@pytest.mark.parametrize(
    ("suffix", "head", "form"),
    [
        (".jsonl", b"[1]\n", "lines"),
        (".csv", b"{", "csv"),
        (".json", b" \n[ {", "array"),
        (".json", b"\xef\xbb\xbf[", "array"),
        (".json", b'{"a": 1}\n{"a": 2}\n', "lines"),
        (".json", b'{\n  "a": 1\n}', "documents"),
        (".json", b'{"data": [{"a": 1}]}\n', "documents"),
        (".txt", b'{"cut": \n{"a": 2}\n', "lines"),
        ("", b"", "documents"),
    ],
)
def test_the_form_is_told_by_suffix_and_beginning(suffix: str, head: bytes, form: str) -> None:
    assert form_of(suffix, head) == form
