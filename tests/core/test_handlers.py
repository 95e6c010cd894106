"""Handler files and the registry."""

import hashlib
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.errors import HandlerNotFound, InternalError, InvalidHandler
from nexus_core.handler_source import MAX_FILES, MAX_SOURCE_BYTES
from nexus_core.handlers import HandlerRegistry, HandlerSource, load_handler
from nexus_core.limits import ResourceLimits

DEFAULTS = ResourceLimits(timeout_ms=1234)
CODE = "export default (event) => event;\n"


def write(root: Path, files: dict[str, str]) -> Path:
    """Write texts by path below `root`, and give `root` back."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def refused(path: Path) -> InvalidHandler:
    """The error a handler is refused with."""
    with pytest.raises(InvalidHandler) as caught:
        load_handler(path, DEFAULTS)
    assert str(path.parent) not in caught.value.message
    return caught.value


@pytest.mark.parametrize("suffix", ["js", "mjs", "ts", "mts"])
def test_single_file_is_a_handler(tmp_path: Path, suffix: str) -> None:
    """A code file is a handler of its own name, with default limits and no capabilities."""
    write(tmp_path, {f"hello.{suffix}": CODE})
    source = load_handler(tmp_path / f"hello.{suffix}", DEFAULTS)
    assert (source.name, source.entry) == ("hello", f"hello.{suffix}")
    assert source.files == {f"hello.{suffix}": CODE}
    assert source.manifest.limits == DEFAULTS
    assert not source.manifest.capabilities


def test_manifest_beside_a_single_file_is_read(tmp_path: Path) -> None:
    """`hello.toml` is the manifest of `hello.js`."""
    write(tmp_path, {"hello.js": CODE, "hello.toml": 'capabilities = ["ext:http"]'})
    source = load_handler(tmp_path / "hello.js", DEFAULTS)
    assert source.manifest.capabilities.tokens == ("ext:http",)
    write(tmp_path, {"hello.toml": 'entry = "other.js"'})
    assert "entry is for folders" in refused(tmp_path / "hello.js").message


def test_folder_takes_its_sources_and_nothing_else(tmp_path: Path) -> None:
    """A folder's code and JSON files belong to it; other files, hidden and installed ones do not."""
    write(
        tmp_path,
        {
            "hello/index.ts": CODE,
            "hello/lib/util.js": "1",
            "hello/data.json": "{}",
            "hello/README.md": "#",
            "hello/types.d.ts": "declare const x: number;",
            "hello/node_modules/x/index.js": "1",
            "hello/.git/hook.js": "1",
        },
    )
    source = load_handler(tmp_path / "hello", DEFAULTS)
    assert source.entry == "index.ts"
    assert set(source.files) == {"index.ts", "lib/util.js", "data.json"}


def test_entry_of_a_folder(tmp_path: Path) -> None:
    """The manifest's entry wins; without it exactly one index file must be there."""
    folder = write(tmp_path, {"hello/main.js": CODE}).joinpath("hello")
    assert "has no index.js" in refused(folder).message
    write(tmp_path, {"hello/nexus.toml": 'entry = "absent.js"'})
    assert "'absent.js' is no code file here; there are: main.js" in refused(folder).message
    write(tmp_path, {"hello/nexus.toml": 'entry = "main.js"'})
    assert load_handler(folder, DEFAULTS).entry == "main.js"
    write(tmp_path, {"hello/nexus.toml": "", "hello/index.js": CODE, "hello/index.ts": CODE})
    assert "index.js and index.ts: set entry" in refused(folder).message


def test_wasm_is_refused_for_now(tmp_path: Path) -> None:
    """A WASM module is refused by a message that says so, as a file and as a folder's index."""
    write(tmp_path, {"hello.wasm": "", "other/index.wat": "", "page.html": ""})
    assert "WASM modules are not supported yet" in refused(tmp_path / "hello.wasm").message
    assert "WASM modules are not supported yet" in refused(tmp_path / "other").message
    assert "page.html is not a handler" in refused(tmp_path / "page.html").message


@pytest.mark.parametrize("name", ["Hello", "-a", "_a", "a.b", "ä", "a b", "x" * 64])
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    """A name outside the allowed form is refused, by loading and by the registry."""
    (tmp_path / f"{name}.js").write_text(CODE)
    assert "is not allowed: 1 to 63" in refused(tmp_path / f"{name}.js").message
    assert list(HandlerRegistry(tmp_path, DEFAULTS).errors()) == [name]


def test_longest_name_is_accepted(tmp_path: Path) -> None:
    """A name of 63 characters is a name."""
    (tmp_path / f"{'x' * 63}.js").write_text(CODE)
    assert load_handler(tmp_path / f"{'x' * 63}.js", DEFAULTS).name == "x" * 63


def test_bytes_that_are_not_utf8_are_pointed_at(tmp_path: Path) -> None:
    """The place of the first bad byte counts lines and characters; a byte order mark is dropped."""
    (tmp_path / "hello.js").write_bytes("\ufeff// ä\n'ä' + '".encode() + b"\xff';\n")
    error = refused(tmp_path / "hello.js")
    assert error.location == ("hello.js", 2, 8)
    assert "byte 0xff is not UTF-8" in error.message
    (tmp_path / "hello.js").write_bytes(b"\xef\xbb\xbf1")
    assert load_handler(tmp_path / "hello.js", DEFAULTS).files == {"hello.js": "1"}


def test_links_may_not_leave_the_folder(tmp_path: Path) -> None:
    """A link to a file outside, to a folder, or to nothing is refused; one to a sibling file is followed."""
    outside = write(tmp_path / "outside", {"secret.json": '{"key": 1}'})
    folder = write(tmp_path / "handlers", {"hello/index.js": CODE}).joinpath("hello")
    link = folder / "data.json"
    link.symlink_to(outside / "secret.json")
    assert refused(folder).message == "data.json is a link that leaves the handler's folder"
    link.unlink()
    link.symlink_to("index.js")
    assert load_handler(folder, DEFAULTS).files["data.json"] == CODE
    link.unlink()
    link.symlink_to("absent.js")
    assert "data.json cannot be read" in refused(folder).message
    link.unlink()
    (folder / "deep").symlink_to(outside)
    assert "deep is a link to a folder" in refused(folder).message


def test_linked_handlers_may_not_leave_the_directory(tmp_path: Path) -> None:
    """The registry refuses a file or a folder that is a link to somewhere else."""
    write(tmp_path / "outside", {"hello/index.js": CODE, "bye.js": CODE})
    directory = write(tmp_path / "handlers", {"good.js": CODE})
    (directory / "hello").symlink_to(tmp_path / "outside" / "hello")
    (directory / "bye.js").symlink_to(tmp_path / "outside" / "bye.js")
    registry = HandlerRegistry(directory, DEFAULTS)
    assert set(registry.errors()) == {"hello", "bye"}
    assert registry.get("good").entry == "good.js"


def test_mounted_config_map_is_read(tmp_path: Path) -> None:
    """Kubernetes mounts files as links through a hidden folder; they are read, and their updates seen."""
    for number in (1, 2):
        write(tmp_path, {f"..v{number}/hello.js": f"{number}"})
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "hello.js").symlink_to("..data/hello.js")
    registry = HandlerRegistry(tmp_path, DEFAULTS)
    assert registry.names() == ("hello",)
    assert registry.get("hello").files["hello.js"] == "1"
    (tmp_path / "..new").symlink_to("..v2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert registry.refresh() == {"hello"}
    assert registry.get("hello").files["hello.js"] == "2"


def test_special_files_are_refused(tmp_path: Path) -> None:
    """A pipe that nobody writes to must not make the loader wait."""
    os.mkfifo(tmp_path / "hello.js")
    assert "not a regular file" in refused(tmp_path / "hello.js").message


def test_files_and_bytes_are_bounded(tmp_path: Path) -> None:
    """As many files and bytes as the bounds are read, one more of either is refused."""
    folder = write(tmp_path, {"hello/index.js": CODE}).joinpath("hello")
    for number in range(MAX_FILES - 1):
        (folder / f"f{number}.js").touch()
    (folder / "f0.js").write_text("x" * (MAX_SOURCE_BYTES - len(CODE)))
    assert len(load_handler(folder, DEFAULTS).files) == MAX_FILES
    (folder / "one-more.js").touch()
    assert f"more than {MAX_FILES} source files" in refused(folder).message
    (folder / "one-more.js").unlink()
    (folder / "f0.js").write_text("x" * (MAX_SOURCE_BYTES - len(CODE) + 1))
    assert "too large" in refused(folder).message


def test_nesting_is_bounded(tmp_path: Path) -> None:
    """Folders nested without end are refused."""
    (tmp_path / "hello" / "/".join("d" * 20)).mkdir(parents=True)
    (tmp_path / "hello" / "index.js").touch()
    assert "nested deeper than 16" in refused(tmp_path / "hello").message


@given(
    st.dictionaries(st.text("ab", max_size=3), st.text("ab", max_size=3), max_size=3),
    st.dictionaries(st.text("ab", max_size=3), st.text("ab", max_size=3), max_size=3),
)
def test_digest_tells_sources_apart(one: dict[str, str], two: dict[str, str]) -> None:
    """Two sources have one digest exactly when their entry and files are the same, in any order."""
    first, second = HandlerSource("x", "e", one), HandlerSource("y", "e", two)
    assert (first.digest == second.digest) == (one == two)
    assert len(bytes.fromhex(first.digest)) == hashlib.sha256().digest_size
    assert HandlerSource("x", "f", one).digest != first.digest


def test_missing_directory_is_empty_until_it_exists(tmp_path: Path) -> None:
    """A directory that is not there yet holds no handlers; a refresh after its making finds them."""
    registry = HandlerRegistry(tmp_path / "handlers", DEFAULTS)
    assert registry.names() == ()
    write(tmp_path / "handlers", {"hello.js": CODE})
    assert registry.refresh() == {"hello"}
    assert registry.get("hello").name == "hello"


def test_one_bad_handler_hides_no_good_one(tmp_path: Path) -> None:
    """A bad handler is listed, and raises its own error; the others are served."""
    write(
        tmp_path, {"good.js": CODE, "bad.js": CODE, "bad.toml": "x", "README.md": "", "assets/logo.svg": ""}
    )
    registry = HandlerRegistry(tmp_path, DEFAULTS)
    assert registry.names() == ("bad", "good")
    assert registry.get("good").entry == "good.js"
    with pytest.raises(InvalidHandler, match=r"bad.toml:1:2"):
        registry.get("bad")
    assert list(registry.errors()) == ["bad"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"a.js": CODE, "a.ts": CODE}, "a.js and a.ts claim the same name"),
        ({"a.js": CODE, "a/index.js": CODE}, "a and a.js claim the same name"),
        ({"a.toml": ""}, "a.toml stands alone"),
        ({"a.toml": "", "a/index.js": CODE}, "a folder's manifest is a/nexus.toml"),
        ({"a.wasm": ""}, "not supported yet"),
        ({"a/nexus.toml": ""}, "has no index.js"),
    ],
)
def test_unclear_files_are_errors(tmp_path: Path, files: dict[str, str], reason: str) -> None:
    """Files that leave open which handler is meant are an error of that name, never a silent choice."""
    registry = HandlerRegistry(write(tmp_path, files), DEFAULTS)
    with pytest.raises(InvalidHandler, match=reason):
        registry.get("a")


def test_vanished_files_are_errors(tmp_path: Path) -> None:
    """A handler whose file goes while it is looked at is an error of that name until it is back."""
    (tmp_path / "a.js").symlink_to("b.txt")
    registry = HandlerRegistry(tmp_path, DEFAULTS)
    assert registry.errors()["a"].message == "handler 'a' cannot be read: No such file or directory"
    (tmp_path / "b.txt").write_text(CODE)
    assert registry.refresh() == {"a"}
    assert registry.get("a").files == {"a.js": CODE}


def test_unreadable_directory_is_no_empty_one(tmp_path: Path) -> None:
    """A directory that cannot be read is an error, which does not tell its path."""
    with pytest.raises(InternalError, match=r"^the handlers directory cannot be read: File name too long$"):
        HandlerRegistry(tmp_path / ("x" * 300), DEFAULTS)


def test_unknown_name_tells_close_ones(tmp_path: Path) -> None:
    """The error for an unknown name suggests what it may have meant; an impossible name is told its form."""
    registry = HandlerRegistry(write(tmp_path, {"hello.js": CODE, "bye.js": CODE}), DEFAULTS)
    with pytest.raises(HandlerNotFound, match=r"no handler is called 'helo'; did you mean hello\?"):
        registry.get("helo")
    with pytest.raises(HandlerNotFound, match=r"no handler is called 'xyz'$"):
        registry.get("xyz")
    with pytest.raises(HandlerNotFound, match="1 to 63 of"):
        registry.get("../" * 10000)


def test_refresh_names_exactly_what_changed(tmp_path: Path) -> None:
    """Added, removed, edited and newly broken handlers are named, others are not."""
    write(tmp_path, {"same.js": CODE, "code.js": CODE, "gone.js": CODE, "folder/index.js": CODE})
    registry = HandlerRegistry(tmp_path, DEFAULTS)
    same = registry.get("same")
    assert registry.refresh() == frozenset()
    (tmp_path / "gone.js").unlink()
    write(tmp_path, {"code.js": CODE.replace("event", "evenT"), "new.js": CODE, "folder/nexus.toml": "x"})
    assert registry.refresh() == {"gone", "code", "new", "folder"}
    write(tmp_path, {"folder/nexus.toml": "[limits]\ntimeout_ms = 1"})
    assert registry.refresh() == {"folder"}
    assert registry.get("folder").manifest.limits.timeout_ms == 1
    assert registry.get("same") == same
    with pytest.raises(HandlerNotFound):
        registry.get("gone")


def test_settled_files_are_not_read_again(tmp_path: Path) -> None:
    """Files that have not changed for a while are not read again; a change is seen all the same."""
    path = write(tmp_path, {"hello.js": CODE}) / "hello.js"
    registry = HandlerRegistry(tmp_path, DEFAULTS)
    fresh = registry.get("hello")
    registry.refresh()
    # Changed a moment ago, the file may change again within one tick of the file system's clock.
    assert registry.get("hello") is not fresh
    deadline = time.monotonic() + 30
    while registry.refresh() or registry.get("hello") is fresh or not _is_kept(registry):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    path.write_text(CODE.upper())
    assert registry.refresh() == {"hello"}
    assert registry.get("hello").files == {"hello.js": CODE.upper()}


def _is_kept(registry: HandlerRegistry) -> bool:
    before = registry.get("hello")
    registry.refresh()
    return registry.get("hello") is before


def test_errors_do_not_grow(tmp_path: Path) -> None:
    """Each look-up of a bad handler raises an error of its own, so that tracebacks do not pile up."""
    registry = HandlerRegistry(write(tmp_path, {"a.wasm": ""}), DEFAULTS)
    with pytest.raises(InvalidHandler) as first:
        registry.get("a")
    with pytest.raises(InvalidHandler) as second:
        registry.get("a")
    assert first.value is not second.value
    assert registry.errors()["a"].__traceback__ is None
    assert registry.errors()["a"].__context__ is None


def test_later_name_loses_a_route_to_the_earlier(tmp_path: Path) -> None:
    """Of two handlers that claim one HTTP route the later by name is refused, and is back when it is free."""
    route = "[[triggers]]\nhttp = 'GET /users/{%s}'"
    write(tmp_path, {"a.js": CODE, "a.toml": route % "id", "b.js": CODE, "b.toml": route % "name"})
    registry = HandlerRegistry(tmp_path, DEFAULTS)
    with pytest.raises(InvalidHandler, match=r"'GET /users/\{name\}' already belongs to handler 'a'"):
        registry.get("b")
    assert registry.triggers("http") == ((("http", "GET /users/{id}"), "a"),)
    (tmp_path / "a.toml").unlink()
    assert registry.refresh() == {"a", "b"}
    assert registry.triggers("http") == ((("http", "GET /users/{name}"), "b"),)


def test_one_queue_has_one_handler(tmp_path: Path) -> None:
    """Of two handlers with the same trigger of any kind the later by name is refused."""
    trigger = "[[triggers]]\n%s = 'orders'"
    write(tmp_path, {"a.js": CODE, "a.toml": trigger % "sqs", "b.js": CODE, "b.toml": trigger % "sqs"})
    write(tmp_path, {"c.js": CODE, "c.toml": trigger % "sns"})
    registry = HandlerRegistry(tmp_path, DEFAULTS)
    with pytest.raises(InvalidHandler, match="trigger sqs 'orders' already belongs to handler 'a'"):
        registry.get("b")
    assert registry.triggers("sns") == ((("sns", "orders"), "c"),)


def test_triggers_are_listed_by_kind(tmp_path: Path) -> None:
    """Triggers are given per kind; HTTP ones with literal segments before parameters."""
    write(tmp_path, {"a.js": CODE, "a.toml": "[[triggers]]\nhttp = 'GET /u/{id}'\n[[triggers]]\nsqs = 'q'"})
    write(tmp_path, {"b.js": CODE, "b.toml": "[[triggers]]\nhttp = 'GET /u/me'"})
    registry = HandlerRegistry(tmp_path, DEFAULTS)
    assert [name for _, name in registry.triggers("http")] == ["b", "a"]
    assert registry.triggers("sqs") == ((("sqs", "q"), "a"),)
    assert registry.triggers("schedule") == ()
