"""What docs/handlers.md and docs/limits.md show is run, and gives what they show."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.command import Command
from tests.project.sources import ROOT

HANDLERS = ROOT / "docs" / "handlers.md"
LIMITS = ROOT / "docs" / "limits.md"
CODE = ("js", "ts", "toml")


class Block(NamedTuple):
    """A fenced block: its language, text, and the file a comment before it names."""

    language: str
    text: str
    file: str | None


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    pattern = r"(?:^<!-- file: (\S+) -->\n)?^```(\w+)\n(.*?)^```$"
    found = re.finditer(pattern, page.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(one[2], one[3], one[1]) for one in found]


def commands(page: Path) -> Iterator[tuple[str, Block | None]]:
    """Each command of a page, with the block that shows its output, if one follows."""
    found = blocks(page)
    for at, block in enumerate(found):
        if block.language == "sh":
            after = found[at + 1] if at + 1 < len(found) else None
            shows = after is not None and after.file is None and after.language in ("json", "text")
            yield block.text.strip(), after if shows else None


def write_files(nexus: Command, page: Path) -> None:
    """Put the files a page shows where its commands find them."""
    for block in blocks(page):
        if block.file is not None:
            nexus.write(block.file, block.text)


def contains(whole: object, part: object) -> bool:
    """Whether every member of `part` is in `whole`, at any depth; a page may leave members out."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    return whole == part


@pytest.mark.parametrize(("command", "shown"), list(commands(HANDLERS)), ids=lambda value: str(value)[:60])
def test_a_command_of_the_handlers_page(nexus: Command, command: str, shown: Block | None) -> None:
    """Each command succeeds, or fails as shown, and prints what the page shows under it."""
    write_files(nexus, HANDLERS)
    done = nexus(*shlex.split(command)[1:])
    if shown is None:
        assert done.code == 0
    elif shown.language == "json":
        assert (done.code, json.loads(done.out)) == (0, json.loads(shown.text))
    else:
        assert (done.code, done.err[: len(shown.text)]) == (1, shown.text)


def test_every_handler_of_the_page_is_accepted(nexus: Command) -> None:
    """Each handler and manifest the page shows compiles and grants what its code uses."""
    write_files(nexus, HANDLERS)
    assert all(block.file for block in blocks(HANDLERS) if block.language in CODE)
    done = nexus("check", ".", "--strict")
    assert done.code == 0, done.out


def test_the_breach_of_the_limits_page(nexus: Command) -> None:
    """The sample breaks its limit, and the answer is the one shown."""
    shutil.copytree(ROOT / "handlers", nexus.folder / "handlers")
    ((command, shown),) = commands(LIMITS)
    assert shown is not None
    done = nexus(*shlex.split(command)[1:])
    assert done.code == 1
    assert contains(json.loads(done.out), json.loads(shown.text))
