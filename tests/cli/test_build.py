"""`nexus build`, and that what it builds is used."""

import json
import os

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
    for name in ("one", "two"):
        done = nexus(
            "invoke", name, "--json", NEXUS_CACHE_SEED_DIR="seed", NEXUS_CACHE_DIR=str(nexus.folder / "disk")
        )
        assert json.loads(done.out)["metrics"]["cacheHit"] is True
    assert not (nexus.folder / "disk").exists()


def test_a_second_build_has_the_same_parts(nexus: Command) -> None:
    """Building again leaves every part there, the TypeScript compiler's too; a removed handler's goes."""
    write_handlers(nexus)
    nexus("build", "--out", "seed")
    first = entries(nexus, "seed")
    assert nexus("build", "--out", "seed").out.startswith("seed: 2 of 2 handlers, ")
    assert entries(nexus, "seed") == first
    (nexus.folder / "handlers" / "one.js").unlink()
    assert "1 entries of earlier builds removed" in nexus("build", "--out", "seed").out
    assert len(first - entries(nexus, "seed")) == 1


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
