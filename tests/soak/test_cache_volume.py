"""A cache folder on a volume that others fill up: the cache is a help, and its loss costs no call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from nexus_core.limits import MIB
from tests.knative.containers import ENTRY, Container, container, root_command
from tests.soak.callers import Books, write_handlers

VOLUME = 128 * MIB
HANDLERS = 120
_MOUNT = 'mount -t tmpfs -o size="$1" none "$2"; shift 2; exec "$@"'


def _write_many(folder: Path) -> None:
    """Handlers that each need an image of their own."""
    write_handlers(folder)
    for number in range(HANDLERS):
        code = f"export default (event) => [{number}, event];"
        (folder / f"h{number}.js").write_text(code)


def _fill(volume: Path, name: str) -> int:
    """Write until nothing more fits; gives the bytes."""
    written = 0
    with (volume / name).open("wb", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while True:
                    written += file.write(os.urandom(size))
            except OSError:
                continue
    return written


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def _call_all(server: Container, numbers: range, books: Books) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        for number in numbers:
            answer = await client.post(f"/invoke/h{number}", json=number)
            if answer.status_code == 200 and answer.json()["returnValue"] == [number, number]:
                books.answered.append(str(number))
            else:
                books.lost.append((str(number), 0, answer.text))


@pytest.mark.soak
async def test_a_full_cache_volume_costs_no_call(tmp_path: Path, tell: Callable[[str], None]) -> None:
    """Others fill the 128 MiB of the cache under calls: handlers compiled before, meanwhile and afterwards
    answer, and so does a server that starts on the full volume and one that starts on the emptied one.
    """
    handlers, cache = tmp_path / "handlers", tmp_path / "cache"
    _write_many(handlers)
    cache.mkdir()
    third = HANDLERS // 3
    books = Books()
    command = root_command(_MOUNT, VOLUME, cache, *ENTRY)
    # The volume itself belongs to the platform, and is one's own in no pod.
    settings: dict[str, Any] = {"handlers_dir": handlers, "cache_dir": cache / "own"}
    with container(tmp_path, command=command, **settings) as server:
        volume = Path(f"/proc/{server.process.pid}/root{cache}")
        await _call_all(server, range(third), books)
        used = _size(volume)
        filled, _ = await asyncio.gather(
            asyncio.to_thread(_fill, volume, "filler-1"), _call_all(server, range(third, 2 * third), books)
        )
        filled += await asyncio.to_thread(_fill, volume, "filler-2")
        await _call_all(server, range(HANDLERS), books)
        into = ["nsenter", "--mount", "--target", str(server.process.pid), *ENTRY]
        with container(_new(tmp_path / "full"), command=into, **settings) as late:
            await _call_all(late, range(HANDLERS), books)
        (volume / "filler-1").unlink()
        (volume / "filler-2").unlink()
        with container(_new(tmp_path / "emptied"), command=into, **settings) as again:
            await _call_all(again, range(HANDLERS), books)
    tell(
        f"{len(books.answered)} calls answered, {len(books.lost)} failed; cache {used / MIB:.1f} MiB, "
        f"others {filled / MIB:.1f} of {VOLUME / MIB:.0f} MiB"
    )
    assert used > MIB
    assert books.lost == []
    assert len(books.answered) == 2 * third + 3 * HANDLERS
