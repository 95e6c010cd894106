"""Numbers, names and lists in docs/ that must be those of the code."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from nexus_core.capabilities import MAX_TOKENS
from nexus_core.config import settings
from nexus_core.engine.epoch import TICK_SECONDS
from nexus_core.errors import ERROR_TABLE
from nexus_core.handler_source import MAX_FILES, MAX_SOURCE_BYTES
from nexus_core.limits import ResourceLimits
from nexus_core.manifest import MAX_MANIFEST_BYTES
from nexus_core.stores import bounds
from nexus_core.triggers import TRIGGER_KINDS
from tests.project.sources import ROOT

LIMITS = (ROOT / "docs" / "limits.md").read_text()
HANDLERS = (ROOT / "docs" / "handlers.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
UNITS = {None: 1, "KiB": 1024, "MiB": 1024**2}
FIXED = {
    "source files of a handler": MAX_FILES,
    "bytes of its source files together": MAX_SOURCE_BYTES,
    "bytes of its manifest": MAX_MANIFEST_BYTES,
    "capabilities in a manifest": MAX_TOKENS,
    "characters of a `$state` key": bounds.MAX_KEY_LENGTH,
    "bytes of a `$state` value": bounds.MAX_VALUE_BYTES,
    "keys of a session": bounds.MAX_SESSION_KEYS,
    "bytes of a session": bounds.MAX_SESSION_BYTES,
    "bytes written and emitted at once": bounds.MAX_FLUSH_BYTES,
}


def table(page: str, heading: str) -> dict[str, list[str]]:
    """The rows of the first table under a heading, by first cell without its code marks."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in section.splitlines()
        if line[:1] == "|"
    ]
    return {cells[0].strip("`"): cells for cells in rows[2:]}


def number(text: str) -> int:
    """A count or size as the pages write it."""
    found = re.fullmatch(r"(\d+)(?: (KiB|MiB))?", text)
    assert found, text
    return int(found[1]) * UNITS[found[2]]


def test_the_limits_of_a_call_are_those_of_the_code() -> None:
    """docs/limits.md lists every limit of a call, in order, with its default."""
    rows = table(LIMITS, "Of one call")
    shown = [(name, number(cells[1])) for name, cells in rows.items()]
    assert shown == list(msgspec.structs.asdict(ResourceLimits()).items())


def test_the_limits_of_the_pool_are_those_of_the_code() -> None:
    """docs/limits.md shows the defaults of the pool's and the cache's settings."""
    defaults = {setting.name: setting.default for setting in settings()}
    rows = table(LIMITS, "Of the pool")
    assert {name: number(cells[1]) for name, cells in rows.items()} == {name: defaults[name] for name in rows}


def test_the_fixed_limits_are_those_of_the_code() -> None:
    """docs/limits.md shows the fixed bounds of files and state."""
    rows = table(LIMITS, "Of a handler's files and state")
    assert {name: number(cells[1]) for name, cells in rows.items()} == FIXED


@pytest.mark.parametrize("heading", ["Of one call", "Of the pool", "Of a handler's files and state"])
def test_every_breach_is_a_code(heading: str) -> None:
    """The last column names an error code that exists, or says in words that there is none."""
    breaches = {cells[-1] for cells in table(LIMITS, heading).values()}
    codes = {breach.strip("`") for breach in breaches if breach.startswith("`")}
    assert codes <= {code.value for code in ERROR_TABLE}
    assert breaches - {f"`{code}`" for code in codes} <= {"none", "they wait", "eviction"}


def test_the_errors_are_those_of_the_code() -> None:
    """docs/handlers.md lists every code once, with its HTTP status."""
    shown: dict[str, int] = {}
    for cells in table(HANDLERS, "Errors").values():
        codes = re.findall(r"`(\w+)`", cells[0])
        statuses = [int(status) for status in cells[1].split(", ")]
        shown.update(zip(codes, statuses * len(codes) if len(statuses) == 1 else statuses, strict=True))
    assert shown == {code.value: answer.http_status for code, answer in ERROR_TABLE.items()}


def test_the_trigger_kinds_are_those_of_the_code() -> None:
    """docs/handlers.md names every kind of trigger."""
    section = HANDLERS.partition("\n## Triggers\n")[2].partition("\n## ")[0]
    assert set(TRIGGER_KINDS) <= {*re.findall(r"`(\w+)`", section), "http"}


def test_state_sizes_are_those_of_the_code() -> None:
    """docs/handlers.md states the bounds of keys, values and sessions."""
    words = HANDLERS.replace(",", "").replace("\n", " ")
    assert f"at most {bounds.MAX_KEY_LENGTH} characters" in words
    assert f"a value {bounds.MAX_VALUE_BYTES // 1024**2} MiB" in words
    assert f"a session {bounds.MAX_SESSION_KEYS} keys" in " ".join(words.split())


def test_every_dependency_has_its_reason() -> None:
    """docs/architecture.md lists exactly the packages that pyproject.toml asks for, the extra's as well."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for title, lines in (
        ("Dependencies", project["dependencies"]),
        ("Dependencies of the extra `lambda`", project["optional-dependencies"]["lambda"]),
    ):
        needed = [re.split(r"[<>=~\[]", line)[0].replace("_", "-") for line in lines]
        assert [name.replace("_", "-") for name in table(ARCHITECTURE, title)] == needed


def test_the_rooms_are_there() -> None:
    """Every folder of the table of rooms exists, and every room of ours is in it."""
    named = re.findall(r"`([a-z_/]+/)`", ARCHITECTURE.partition("\n## Rooms\n")[2].partition("\n## ")[0])
    rooms = {f"{path.parent.relative_to(ROOT)}/" for path in (ROOT / "functions").glob("*/__init__.py")}
    assert all((ROOT / folder).is_dir() for folder in named)
    assert rooms <= set(named)


def test_the_tick_is_the_engines() -> None:
    """Both pages state how often a guest is interrupted."""
    tick = f"every {TICK_SECONDS * 1000:.0f} ms"
    assert all(tick in re.sub(r"\s+", " ", page) for page in (LIMITS, ARCHITECTURE))


def test_the_handlers_page_links_the_samples() -> None:
    """Every sample has a comment that tells how to call it, and a handler of its own."""
    for sample in sorted((ROOT / "handlers").iterdir()):
        entry = next(sample.glob("index.*")) if sample.is_dir() else sample
        name = Path(sample.name).stem
        opening = entry.read_text().partition("export default")[0]
        assert re.search(rf"nexus invoke {name}\b|/invoke/{name}\b|localhost:8080/", opening), name
