"""Text on its way to a terminal."""

import unicodedata

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from functions.cli.terminal import harmless, harmless_block, pretty_json, short_json

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def steers(character: str) -> bool:
    """Whether a character is a control, or a mark that changes the direction of text."""
    return unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs") or character in (
        "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


@given(st.text(st.characters(exclude_categories=[])))
def test_nothing_that_steers_is_left(text: str) -> None:
    """Whatever the text, no character of it moves a cursor or starts a line."""
    assert not any(steers(character) for character in harmless(text) if character != "\t")


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_plain_text_stays(text: str) -> None:
    """Printable ASCII is shown as it is."""
    assert harmless(text) == text


def test_a_block_cannot_look_like_our_lines() -> None:
    """A text of several lines keeps them, each one after the first indented."""
    assert harmless_block("one\nstate x = 1\n\x1b", "  ") == "one\n  state x = 1\n  \\u001b"


@given(json_values)
def test_pretty_json_is_the_same_value(value: object) -> None:
    """Making JSON pretty and harmless does not change what it means."""
    text = pretty_json(msgspec.json.encode(value))
    assert msgspec.json.decode(text) == value
    assert not any(steers(character) for character in text if character != "\n")


@given(json_values, st.integers(1, 50))
def test_short_json_is_one_line_of_bounded_length(value: object, most: int) -> None:
    """JSON shown in a line is cut to the length asked for."""
    text = short_json(msgspec.json.encode(value), most)
    assert len(text) <= most
    assert "\n" not in text
