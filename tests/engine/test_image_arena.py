"""The memory file of all images."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from nexus_core.engine.image import PAGE, ImageArena


@pytest.fixture
def impatient_threads() -> Iterator[None]:
    """Threads that take turns after nearly every step, so that a race that can happen does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("impatient_threads")
def test_images_stored_from_several_threads_never_share_a_place() -> None:
    """Pages stored by eight threads at once are all read back as they were written."""
    arena = ImageArena()

    def store(number: int) -> tuple[int, bytes]:
        data = number.to_bytes(2) * (PAGE // 2) * (1 + number % 3)
        return arena.store(data), data

    with ThreadPoolExecutor(8) as threads:
        stored = list(threads.map(store, range(1, 2001)))
    try:
        assert all(arena.read(offset, len(data)) == data for offset, data in stored)
        assert len({offset for offset, _ in stored}) == len(stored)
    finally:
        arena.close()
