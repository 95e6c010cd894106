"""Places in an author's file."""

import pytest

from nexus_core.source_text import MAX_SNIPPET_COLUMNS, find_toml_key, invalid_at, snippet_of

TOML = """\
capabilities = [
    "ext:http",
    "state:red:x",
]
limits.cpu_ms = 1
"quoted" = 2

[limits] # a comment
  timeout_ms = 1

[[triggers]]
sqs = "one"
[[triggers]]
sqs = "two"
[http.deep]
allow = []
"""


def test_snippet_puts_a_caret_under_the_column() -> None:
    """The snippet is the numbered source line and a caret below the column, tabs counted as one."""
    assert snippet_of("one\n\ttwo", 2, 2) == "2 |  two\n  |  ^"
    assert snippet_of("one", 2, 1) is None


def test_snippet_of_a_long_line_is_cut_around_the_place() -> None:
    """However long the line, the snippet is bounded and still has the place above its caret."""
    line = "-" * 5000 + "!" + "-" * 5000
    shown, caret = (snippet_of(line, 1, 5001) or "").split("\n")
    assert len(shown) <= MAX_SNIPPET_COLUMNS + 4
    assert shown[caret.index("^")] == "!"


def test_invalid_at_says_the_place_in_every_form() -> None:
    """The error carries the location and snippet, and its message starts with the place."""
    error = invalid_at("is wrong", "a.js", "x = 1", 1, 5)
    assert error.message == "a.js:1:5: is wrong"
    assert error.location == ("a.js", 1, 5)
    assert error.snippet == "1 | x = 1\n  |     ^"


@pytest.mark.parametrize(
    ("path", "index", "value", "place"),
    [
        (("capabilities",), 0, "", (1, 1)),
        (("capabilities",), 0, "state:red:x", (3, 6)),
        (("limits", "cpu_ms"), 0, "", (5, 1)),
        (("quoted",), 0, "", (6, 1)),
        (("limits", "timeout_ms"), 0, "", (9, 3)),
        (("limits",), 0, "", (5, 1)),
        (("triggers", "sqs"), 0, "", (12, 1)),
        (("triggers", "sqs"), 1, "", (14, 1)),
        (("triggers",), 1, "", (13, 1)),
        (("http",), 0, "", (15, 1)),
        (("http", "deep", "allow"), 0, "", (16, 1)),
        (("absent",), 0, "", (1, 1)),
        (("capabilities",), 0, "not there", (1, 1)),
    ],
)
def test_keys_are_found(path: tuple[str, ...], index: int, value: str, place: tuple[int, int]) -> None:
    """A key is found in its own table, by its dotted form, or by its header; else the top is named."""
    assert find_toml_key(TOML, path, index=index, value=value) == place
