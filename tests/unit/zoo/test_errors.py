"""What other people's exceptions say, in one short line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import brief


@pytest.mark.parametrize(
    ("error", "limit", "expected"),
    [
        (RuntimeError("sizes differ:\n\t[3] \r\n and [4]\n"), 200, "sizes differ: [3] and [4]"),
        (AssertionError(), 200, "AssertionError"),
        (ValueError(" \n"), 200, "ValueError"),
        (KeyError("name"), 200, "'name'"),
        (ValueError("a" * 200), 200, "a" * 200),
        (ValueError("a" * 201), 200, "a" * 197 + "..."),
        (ValueError("one two three"), 7, "one ..."),
    ],
)
def test_an_error_in_brief(error, limit, expected):
    assert brief(error, limit) == expected


@given(st.text(), st.integers(10, 300))
def test_any_error_is_one_line_within_the_limit(text, limit):
    said = brief(ValueError(text), limit)
    assert 0 < len(said) <= limit
    assert len(said.splitlines()) == 1
    words = " ".join(text.split())
    assert said in (words, "ValueError") or (said.endswith("...") and words.startswith(said[:-3]))
