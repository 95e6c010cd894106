"""Places in an author's file."""

import pytest

from nexus_core.source_text import find_toml_key, invalid_at

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
