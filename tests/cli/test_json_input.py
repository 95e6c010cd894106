"""JSON on the command line, and how its mistakes are shown."""

import contextlib
import io
import sys
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.cli.json_input import read_json, read_json_object


def refusal(given: str) -> list[str]:
    """The lines of the error that `given` is refused with, without colours."""
    with pytest.raises(click.UsageError) as caught:
        read_json(given, "--event")
    return click.unstyle(caught.value.message).splitlines()


def test_json_is_handed_on_as_it_is() -> None:
    """Valid JSON comes out to the byte, spaces included."""
    assert read_json(' {"a":  [1, "ä"]} ', "--event") == ' {"a":  [1, "ä"]} '.encode()


def test_a_mistake_is_shown_under_its_line(tmp_path: Path) -> None:
    """Bad JSON is answered with source, line, column, the line and a caret."""
    file = tmp_path / "event.json"
    file.write_text('{\n  "who": bob\n}\n')
    assert refusal(f"@{file}") == [
        f"--event @{file} is not JSON: Expecting value (line 2, column 10)",
        '2 |   "who": bob',
        "  |          ^",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--event is not JSON: Expecting value (line 1, column 1)"),
        ("NaN", "--event is not JSON: JSON is malformed"),
        ('"\\ud800"', "--event is not JSON: "),
        ("[" * 100_000, "--event: the values are nested too deep"),
        ("\udcff", "--event: byte 0 is not UTF-8"),
    ],
)
def test_each_kind_of_mistake_is_told(text: str, message: str) -> None:
    """What JSON does not allow is refused with the reason, even where no place is known."""
    assert refusal(text)[0].startswith(message)


def test_standard_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake on standard input says that it stands there."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"{")))
    assert refusal("-")[0].startswith("--event (standard input) is not JSON")


def test_an_object_is_taken_apart() -> None:
    """An object becomes JSON text by key."""
    assert read_json_object('{"a": [1], "b": null}', "--state") == {"a": b"[1]", "b": b"null"}


@given(st.text())
def test_any_text_is_taken_or_refused(text: str) -> None:
    """No text that is not a file's or standard input's raises anything but a usage error."""
    if text != "-" and not text.startswith("@"):
        with contextlib.suppress(click.UsageError):
            read_json(text, "--event")
