"""Peers that are not installed, and the files their rows are built from."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import quickjs
from bench.peers import PeerMissing, Peers


@pytest.mark.parametrize("name", ["workerd", "wasmtime", "wasi_http_component"])
def test_a_peer_that_is_not_installed_says_how_to_get_it(tmp_path: Path, name: str) -> None:
    """Each peer that is asked for and not there names the command that brings it."""
    with pytest.raises(PeerMissing, match=r"python -m bench\.peers install"):
        getattr(Peers(tmp_path), name)


def test_a_peer_that_is_installed_is_found(tmp_path: Path) -> None:
    """Paths are those of the package, whichever directory was installed into."""
    program = tmp_path / "python" / "wasmtime_cli" / "wasmtime"
    program.parent.mkdir(parents=True)
    program.touch()
    assert Peers(tmp_path).wasmtime == program


def test_versions_leave_out_what_is_missing(tmp_path: Path) -> None:
    """The heading names only what the run could use."""
    assert Peers(tmp_path).versions() == {}


def test_quickjs_rs_gives_the_same_answer_in_each_way_it_is_run() -> None:
    """Peers do the same work: the greeting, one state write, one event; and only the dirty one remembers."""
    write = {"op": "set", "key": "count", "value": 2}
    event = {"op": "emit", "name": "greeted", "payload": {"who": "bob"}}
    expected = {"returnValue": {"greeting": "hello bob", "count": 2}, "operations": [write, event]}
    assert quickjs.fresh_runtime_call(quickjs.program()) == expected
    with quickjs.shared_context() as shared:
        assert [shared.call(), shared.call(), shared.restored_call()] == [expected] * 3
