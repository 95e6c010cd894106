"""`nexus build`, and that what it builds is used."""

import json
import os
import platform

from tests.cli.command import Command


def entries(nexus: Command, folder: str) -> set[str]:
    """The entries of a seed."""
    return {path.name for path in (nexus.folder / folder).glob("*.nxc")}


def write_handlers(nexus: Command) -> None:
    """Two handlers, one of them in TypeScript."""
    nexus.write("handlers/one.js", "return 1;")
    nexus.write("handlers/two.ts", "const two: number = 2; return two;")


def test_a_server_finds_all_in_the_seed(nexus: Command) -> None:
    """With the seed and an empty disk cache, nothing is compiled: not the handler, not the engine."""
    write_handlers(nexus)
    built = nexus("build", "--out", "seed", "--json")
    assert (built.code, [one["error"] for one in json.loads(built.out)["handlers"]]) == (0, [None, None])
    assert all(with_seed_only(nexus, name) for name in ("one", "two"))
    assert not (nexus.folder / "disk").exists()


def with_seed_only(nexus: Command, handler: str) -> bool:
    """Whether a call with the seed and an empty disk cache found the handler compiled."""
    done = nexus("invoke", handler, "--json", NEXUS_CACHE_SEED_DIR="seed", NEXUS_CACHE_DIR=disk(nexus))
    hit: bool = json.loads(done.out)["metrics"]["cacheHit"]
    return hit


def disk(nexus: Command) -> str:
    """A disk cache that no other test fills."""
    return str(nexus.folder / "disk")


def test_a_portable_seed_is_used(nexus: Command) -> None:
    """Machine code made for every processor of this architecture serves this one; nothing is compiled."""
    nexus.write("handlers/one.js", "return 1;")
    done = nexus("build", "--portable", "--arch", platform.machine(), "--out", "seed")
    assert (done.code, done.err) == (0, "")
    assert with_seed_only(nexus, "one")
    assert not (nexus.folder / "disk").exists()


def test_a_seed_for_another_architecture_has_no_machine_code(nexus: Command) -> None:
    """The build says that the engine is left to the start; the compiled handlers fit as they are."""
    nexus.write("handlers/one.js", "return 1;")
    other = "arm64" if platform.machine() == "x86_64" else "x86_64"
    done = nexus("build", "--portable", "--arch", other, "--out", "seed")
    assert (done.code, "each server compiles it once" in done.err) == (0, True)
    assert [name for name in entries(nexus, "seed") if name.startswith("quickjs")] == []
    called = nexus("invoke", "one", "--json", NEXUS_CACHE_SEED_DIR="seed")
    assert json.loads(called.out)["metrics"]["cacheHit"] is True


def test_an_architecture_nexus_does_not_know_is_refused(nexus: Command) -> None:
    """A misspelt architecture is a mistake in the command, told with the known ones."""
    nexus.write("handlers/one.js", "")
    done = nexus("build", "--arch", "riscv", "--out", "seed")
    assert (done.code, "arm64" in done.err) == (2, True)


def test_a_second_build_has_the_same_parts(nexus: Command) -> None:
    """Building again leaves every part there, the TypeScript compiler's too; a removed handler's goes."""
    write_handlers(nexus)
    assert nexus("build", "--out", "seed").out.startswith("seed: 2 of 2 handlers, ")
    first = entries(nexus, "seed")
    (nexus.folder / "handlers" / "one.js").unlink()
    assert "1 entries of earlier builds removed" in nexus("build", "--out", "seed").out
    second = entries(nexus, "seed")
    assert (second < first, len(first - second)) == (True, 1)


def test_a_handler_that_fails_is_told_and_the_others_are_built(nexus: Command) -> None:
    """One bad handler makes the exit code 1 and costs the others nothing."""
    nexus.write("handlers/good.js", "")
    nexus.write("handlers/bad.js", "export default {")
    nexus.write("handlers/lost.js", "")
    nexus.write("handlers/lost.toml", 'capabilities = ["ext:http"]\n[http]\nallow = ["http://x"]')
    done = nexus("build", "--out", "seed")
    assert done.code == 1
    assert " --> handlers/bad.js:1:" in done.err
    assert "error[INVALID_HANDLER]: " in done.err
    assert done.out.startswith("seed: 1 of 3 handlers, ")


def test_nothing_to_build_and_nowhere_to_put_it(nexus: Command) -> None:
    """No handlers, no folder named, and a folder that cannot be written exit with 2."""
    assert nexus("build", "--out", "seed").code == 2
    nexus.write("handlers/one.js", "")
    assert nexus("build").code == 2
    nexus.write("file", "")
    assert nexus("build", "--out", "file").code == 2
    (nexus.folder / "others").mkdir()
    os.chmod(nexus.folder / "others", 0o777)  # noqa: PTH101 - a folder anyone can write to is refused
    done = nexus("build", "--out", "others")
    assert (done.code, "others" in done.err) == (2, True)


def test_no_bar_without_a_terminal(nexus: Command) -> None:
    """A build whose errors go to a file draws no progress bar."""
    nexus.write("handlers/one.js", "")
    assert nexus("build", "--out", "seed").err == ""
