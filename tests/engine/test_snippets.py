"""The source line with a caret, as a compiler prints it."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.engine.snippets import MAX_WIDTH, snippet


def test_snippet_shows_the_line_behind_its_number_and_a_caret_below_the_column() -> None:
    """Line 2, column 3 of a text points at its third character."""
    assert snippet("one\nab(c)\nthree", 2, 3) == "2 | ab(c)\n  |   ^"


def test_gutter_is_as_wide_as_the_number() -> None:
    """The bar of the second line stands below the first one's."""
    first, second = (snippet("\n" * 119 + "x", 120, 1) or "").split("\n")
    assert first.index("|") == second.index("|")


@pytest.mark.parametrize(("line", "column"), [(0, 1), (4, 1), (-1, 1)])
def test_a_line_that_does_not_exist_has_no_snippet(line: int, column: int) -> None:
    """A place outside the source gives None, not an error."""
    assert snippet("a\nb\nc", line, column) is None


def test_a_column_behind_the_line_points_right_behind_it() -> None:
    """The end of a line is a place a compiler names when it wanted more."""
    assert snippet("abc", 1, 99) == "1 | abc\n  |    ^"


def test_tabs_become_spaces_and_the_caret_follows() -> None:
    """A tab before the column moves the caret as far as the text."""
    assert snippet("\tx", 1, 2) == "1 |     x\n  |     ^"


def test_wide_and_combining_characters_keep_the_caret_in_place() -> None:
    """A wide character takes two columns of a terminal, a combining one none."""
    assert snippet("漢e\u0301x", 1, 4) == "1 | 漢e\u0301x\n  |    ^"


def test_a_long_line_is_cut_around_the_column() -> None:
    """Of a minified file only what is near the column is shown, with marks where it was cut."""
    shown = snippet("a" * 5_000 + "!" + "b" * 5_000, 1, 5_001)
    assert shown is not None
    text, caret = shown.split("\n")
    assert len(text) <= MAX_WIDTH + len("1 | ……")
    assert text[caret.index("^")] == "!"
    assert text.startswith("1 | …a")
    assert text.endswith("b…")


@given(st.text(), st.integers(-2, 50), st.integers(-2, 50))
def test_snippets_hold_nothing_a_terminal_would_obey(source: str, line: int, column: int) -> None:
    """Whatever the source, a snippet has two lines and no control or direction character."""
    shown = snippet(source, line, column)
    if shown is not None:
        assert len(shown.split("\n")) == 2
        assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown if c != "\n")
