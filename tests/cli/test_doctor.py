"""`nexus doctor`: each check where it finds nothing, and where it finds something."""

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from functions.cli.checks.finding import Finding
from functions.cli.checks.folders import check_cache, check_seed
from functions.cli.checks.running import SCRATCH_SESSION, Clock, check_address, check_clock, check_store
from nexus_core.caches.seed import SeedWriter
from nexus_core.config import RuntimeConfig, load_config
from nexus_core.engine.javascript import GUEST_SHA256
from nexus_core.handlers import HandlerRegistry
from nexus_core.stores.open import open_state_store
from tests.cli.command import Command
from tests.project.sources import ROOT

CHECKS = (
    "settings", "handlers", "cache", "seed", "memory", "processors", "open files", "mappings", "clock",
    "store", "engine", "event sink", "address",
)  # fmt: skip
SECRET = "a-secret-of-the-tests-0123456789"
QUICK: dict[str, Any] = {"NEXUS_HANDLERS_DIR": str(ROOT / "handlers"), "NEXUS_MAX_INSTANCES": "2"}


@pytest.fixture
def port() -> Iterator[int]:
    """A TCP port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        found: int = probe.getsockname()[1]
    return found


def examine(nexus: Command, *arguments: str, code: int | None = None, **variables: Any) -> dict[str, Any]:
    """The findings by check; fails when the exit code is not `code`, or does not go with them."""
    done = nexus("doctor", "--json", *arguments, **{**QUICK, **variables})
    diagnosis = json.loads(done.out)
    assert done.code == (0 if diagnosis["ok"] else 1)
    assert code is None or done.code == code, diagnosis
    return {found["check"]: found for found in diagnosis["findings"]}


def test_a_good_place(nexus: Command, free_port: int) -> None:
    """Where all is well every check is told in order, none is a problem, and the exit code is 0."""
    found = examine(nexus, code=0, NEXUS_PORT=str(free_port))
    assert tuple(found) == CHECKS
    for name in ("handlers", "cache", "seed", "clock", "store", "engine", "event sink", "address"):
        assert found[name]["verdict"] == "ok", found[name]
    assert "7 in" in found["handlers"]["found"]
    assert "NEXUS_STORE_URL" in found["settings"]["detail"][0]


def test_it_is_told_to_people(nexus: Command, free_port: int) -> None:
    """Each check is a line that begins with its verdict, with detail and advice indented under it."""
    done = nexus("doctor", **QUICK, NEXUS_PORT=str(free_port), NEXUS_HOST="0.0.0.0")
    lines = done.out.splitlines()
    assert [line[8:18].strip() for line in lines if line[0] != " "] == list(CHECKS)
    place = next(number for number, line in enumerate(lines) if line.startswith("problem address"))
    assert lines[place + 1] == " " * 19 + (
        "the server refuses to start: set NEXUS_JWT_SECRET, or NEXUS_AUTH=off behind a guard of your own"
    )
    assert (done.code, done.err.splitlines()[-1][:22]) == (1, "13 checks, 1 problem, ")


def test_a_setting_that_is_not_allowed(nexus: Command) -> None:
    """A bad setting is a problem, and the only finding: the others need the settings."""
    found = examine(nexus, code=1, NEXUS_PORT="80a")
    assert tuple(found) == ("settings",)
    assert "NEXUS_PORT: '80a' is not allowed" in found["settings"]["found"]


def test_no_secret_is_shown(nexus: Command) -> None:
    """Of variables only the names are told."""
    done = nexus("doctor", "--json", **QUICK, NEXUS_JWT_SECRET=SECRET)
    assert "NEXUS_JWT_SECRET" in done.out
    assert SECRET not in done.out + done.err


def test_the_containers_variables(nexus: Command, free_port: int) -> None:
    """With --container, PORT counts and every address is listened on, as in the image."""
    found = examine(nexus, "--container", code=1, PORT=str(free_port))
    assert found["address"]["found"].startswith(f"0.0.0.0:{free_port}, no tokens")


def test_handlers_that_are_refused(nexus: Command) -> None:
    """A handler that is not accepted, and a folder that is not there, are problems; none is a warning."""
    nexus.write("mine/good.js", "export default () => 1;")
    nexus.write("mine/bad.js", "export default () => 1;")
    nexus.write("mine/bad.toml", "[limits]\nx = 1")
    found = examine(nexus, code=1, NEXUS_HANDLERS_DIR="mine")["handlers"]
    assert (found["verdict"], found["found"]) == ("problem", "1 of 2 handlers in mine are refused")
    assert found["detail"][0].startswith("bad: ")
    assert examine(nexus, NEXUS_HANDLERS_DIR="none")["handlers"]["verdict"] == "problem"
    (nexus.folder / "empty").mkdir()
    assert examine(nexus, NEXUS_HANDLERS_DIR="empty")["handlers"]["verdict"] == "warning"


@pytest.mark.parametrize(
    ("mode", "what", "words"),
    [
        (0o777, "folder", "writable_by_others"),
        (0o600, "file", "not_a_folder"),
        (0o700, "link", "not_a_folder"),
        (0o700, "nothing below nothing", "neither is"),
        (0o700, "x" * 5000, "io_error"),
    ],
)
def test_a_cache_that_would_not_be_used(nexus: Command, mode: int, what: str, words: str) -> None:
    """A cache folder the server would not trust, or could not make, is a problem with its reason."""
    cache = nexus.folder / "cache"
    if what == "file":
        cache.touch()
    elif what == "link":
        cache.symlink_to(nexus.environ["NEXUS_CACHE_DIR"])
    elif what == "folder":
        cache.mkdir()
        cache.chmod(mode)
    else:
        cache = cache / "a" / what
    found = check_cache(RuntimeConfig(cache_dir=cache))
    assert (found.verdict, words in found.found, bool(found.advice)) == ("problem", True, True)


def test_a_cache_without_room(tmp_path: Path) -> None:
    """Less free space than the cache may take is a warning that names both."""
    tmp_path.chmod(0o700)
    found = check_cache(RuntimeConfig(cache_dir=tmp_path, max_cache_size_bytes=1 << 60))
    assert (found.verdict, "are free, and it may take" in found.found) == ("warning", True)


def test_nothing_is_made(tmp_path: Path) -> None:
    """A cache folder and a database that the server will make are told, tried and not made."""
    config = RuntimeConfig(cache_dir=tmp_path / "new", store_url=f"sqlite:///{tmp_path}/new.db")
    assert check_cache(config).found.startswith(f"{tmp_path}/new will be made at the start")
    assert check_store(config).found == f"sqlite: {tmp_path}/new.db will be made at the start"
    assert list(tmp_path.iterdir()) == []


def test_the_store_is_left_as_it_was(nexus: Command) -> None:
    """The scratch session is empty afterwards, and no other session is touched."""
    url = nexus.environ["NEXUS_STORE_URL"]
    nexus.write("count.js", "$state.n = 1;")
    nexus.write("count.toml", 'capabilities = ["state:write:*"]')
    assert nexus("invoke", "count.js", "--session", "mine").code == 0
    assert examine(nexus)["store"]["found"] == "sqlite: wrote, read and deleted"
    assert _values(url, SCRATCH_SESSION) == {}
    assert _values(url, "mine") == {"n": b"1"}


def _values(url: str, session: str) -> dict[str, bytes]:
    async def load() -> dict[str, bytes]:
        store = open_state_store(url)
        try:
            return dict((await store.load(session)).values)
        finally:
            await store.close()

    return asyncio.run(load())


def test_a_store_that_does_not_work(nexus: Command) -> None:
    """A database that is none, or whose folder is not there, is a problem; so is memory for two workers."""
    nexus.write("text.db", "this is no database, whatever its name says\n" * 100)
    for url in (f"{nexus.folder}/text.db", f"{nexus.folder}/none/new.db"):
        assert check_store(RuntimeConfig(store_url=f"sqlite:///{url}")).verdict == "problem"
    memory = RuntimeConfig(store_url="memory:")
    assert check_store(memory).verdict == "ok"
    assert check_store(msgspec.structs.replace(memory, workers=2)).verdict == "problem"


def test_a_seed(nexus: Command) -> None:
    """A seed that fits is ok; one that lacks something warns; one that is not ours is a problem."""
    nexus.write("mine/one.js", "export default () => 1;")
    assert nexus("build", "--out", "seed", NEXUS_HANDLERS_DIR="mine").code == 0
    seed = nexus.folder / "seed"
    config = RuntimeConfig(handlers_dir=nexus.folder / "mine", cache_seed_dir=seed)

    def look(config: RuntimeConfig = config) -> Finding:
        return check_seed(config, HandlerRegistry(config.handlers_dir, config.limits))

    assert look().verdict == "ok"
    nexus.write("mine/two.js", "export default () => 2;")
    assert (look().verdict, look().detail) == ("warning", ("two",))
    seed.chmod(0o777)
    assert (look().verdict, "writable_by_others" in look().found) == ("problem", True)
    seed.chmod(0o755)
    assert look(msgspec.structs.replace(config, cache_key=SECRET)).verdict == "problem"
    for entry in seed.glob("quickjs-*"):
        entry.unlink()
    assert (look().verdict, "no machine code" in look().found) == ("warning", True)
    assert look(msgspec.structs.replace(config, cache_seed_dir=nexus.folder / "none")).verdict == "problem"


def test_a_seed_of_another_processor(tmp_path: Path) -> None:
    """Machine code that wasmtime refuses is told as what it is, though the seed itself is whole."""
    config = RuntimeConfig(handlers_dir=tmp_path / "none", cache_seed_dir=tmp_path / "seed")
    writer = SeedWriter(tmp_path / "seed", secret=None)
    writer.store(f"quickjs-{GUEST_SHA256}", b"code of another machine")
    found = check_seed(config, HandlerRegistry(config.handlers_dir, config.limits))
    assert (found.verdict, "does not fit this processor" in found.found) == ("warning", True)


def test_the_sink_and_the_address(nexus: Command, port: int, free_port: int) -> None:
    """A sink that takes connections is ok, one that does not is a problem; a taken port is a warning."""
    sink = f"http://user:password@127.0.0.1:{port}/events?key=secret"
    found = examine(nexus, NEXUS_EVENT_SINK=sink, NEXUS_PORT=str(port))
    assert found["event sink"]["verdict"] == "ok"
    assert found["event sink"]["found"] == f"127.0.0.1:{port} takes connections"
    assert found["address"]["verdict"] == "warning"
    found = examine(nexus, code=1, NEXUS_EVENT_SINK=f"http://127.0.0.1:{free_port}/")
    assert found["event sink"]["verdict"] == "problem"


@pytest.mark.parametrize(
    ("variables", "verdict"),
    [
        ({"NEXUS_HOST": "0.0.0.0"}, "problem"),
        ({"NEXUS_HOST": "0.0.0.0", "NEXUS_AUTH": "off"}, "warning"),
        ({"NEXUS_HOST": "0.0.0.0", "NEXUS_JWT_SECRET": SECRET}, "ok"),
        ({"NEXUS_HOST": "256.0.0.1"}, "problem"),
    ],
)
def test_who_reaches_the_server(variables: dict[str, str], verdict: str, free_port: int) -> None:
    """Others who reach it without a token are a problem, or a warning where that was asked for."""
    assert check_address(load_config({"NEXUS_PORT": str(free_port), **variables})).verdict == verdict


@pytest.mark.parametrize(
    ("clock", "word"),
    [
        (Clock(now=1e9, fresh_file=1e9, newest_own_file=1e9 + 90_000, drift=0), "own files"),
        (Clock(now=1e9, fresh_file=1e9 + 3, newest_own_file=0, drift=0), "a file written now"),
        (Clock(now=1e9, fresh_file=1e9, newest_own_file=0, drift=-3), "was set"),
        (Clock(now=1e9, fresh_file=1e9 + 1, newest_own_file=1e9 + 80_000, drift=1), None),
    ],
)
def test_a_clock_that_is_wrong(clock: Clock, word: str | None) -> None:
    """A clock at odds with files or itself is a warning, and a problem where tokens depend on it."""
    plain, guarded = check_clock(RuntimeConfig(), clock), check_clock(RuntimeConfig(jwt_secret=SECRET), clock)
    if word is None:
        assert (plain.verdict, guarded.verdict) == ("ok", "ok")
    else:
        assert (plain.verdict, guarded.verdict, word in plain.found) == ("warning", "problem", True)


def test_the_cache_is_only_looked_at(nexus: Command) -> None:
    """Running a call changes no file of the disk cache and adds none."""
    cache = Path(nexus.environ["NEXUS_CACHE_DIR"])
    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert before
    found = examine(nexus, NEXUS_TIMEOUT_MS="0", NEXUS_CPU_MS="0")
    assert found["engine"]["verdict"] == "ok"
    assert found["settings"]["verdict"] == "warning"
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == before


def test_a_check_that_breaks_hinders_no_other(nexus: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a check cannot cope with becomes its finding."""
    monkeypatch.delattr("functions.cli.checks.running.check_clock")
    found = examine(nexus, code=1)
    assert found["clock"]["found"].startswith("the check itself failed: AttributeError: ")
    assert found["engine"]["verdict"] == "ok"


@pytest.mark.parametrize(
    ("check", "variables"),
    [
        ("store", {"NEXUS_STORE_URL": "sqlite:///" + "x" * 5000}),
        ("store", {"NEXUS_STORE_URL": "sqlite:///nexus.toml/new.db"}),
        ("handlers", {"NEXUS_HANDLERS_DIR": "nexus.toml"}),
        ("seed", {"NEXUS_CACHE_SEED_DIR": "x" * 5000}),
        ("event sink", {"NEXUS_EVENT_SINK": "http://a..b/"}),
        ("event sink", {"NEXUS_EVENT_SINK": "http://[/"}),
        ("address", {"NEXUS_HOST": "a..b"}),
    ],
)
def test_settings_that_lead_nowhere(nexus: Command, check: str, variables: dict[str, str]) -> None:
    """What the settings allow and the machine does not is a problem with words for it, in each check."""
    nexus.write("nexus.toml", "")
    found = examine(nexus, code=1, **variables)[check]
    assert found["verdict"] == "problem"
    assert "the check itself failed" not in found["found"]
