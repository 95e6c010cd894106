"""What the machine module reads from `/proc`."""

from __future__ import annotations

import mmap
import os
import re

from bench import machine

MIB = 1 << 20


def test_held_memory_counts_memfd_pages_that_are_not_mapped() -> None:
    """An image cache in memfds is seen although resident size would not show it."""
    before = machine.held_bytes()
    descriptor = os.memfd_create("bench-test")
    try:
        os.write(descriptor, bytes(8 * MIB))
        grown = machine.held_bytes() - before
    finally:
        os.close(descriptor)
    assert 7 * MIB < grown < 12 * MIB


def test_held_memory_counts_ordinary_pages() -> None:
    """What the process allocates and touches is held."""
    before = machine.held_bytes()
    # A mapping of its own: memory that Python freed earlier would be taken again and held already.
    with mmap.mmap(-1, 8 * MIB, mmap.MAP_PRIVATE) as block:
        block.write(os.urandom(8 * MIB))
        assert machine.held_bytes() - before > 7 * MIB


def test_processor_time_of_our_own_group_is_counted() -> None:
    """This process has used some already."""
    assert machine.group_cpu_seconds(os.getpgrp()) > 0
    assert machine.group_cpu_seconds(1 << 30) == 0


def test_the_description_names_cores_and_versions() -> None:
    """Enough to place a figure, and no path of the machine."""
    told = machine.describe()
    assert f"{os.cpu_count()} cores" in told["machine"]
    assert re.match(r"\d+\.\d+", machine.versions()["wasmtime"])
    assert "/" not in told["system"]
