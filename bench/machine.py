"""What this run ran on, and what a process holds in memory, read from `/proc`."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_BLOCK_BYTES = 512


def describe() -> dict[str, str]:
    """Processor, cores, memory, system and how busy the machine already is."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES / 2**30
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "machine": f"{platform.machine()}, {model}, {os.cpu_count()} cores, {memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load": f"{load} before the run (above the number of cores: figures are too slow)",
    }


def versions() -> dict[str, str]:
    """Python and the distributions that figure in the rows; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in ("wasmtime", "quickjs-rs", "msgspec", "starlette", "uvicorn", "granian"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def held_bytes() -> int:
    """Memory this process holds: its resident pages, plus every page of its memfds, mapped or not.

    Heap images live in memfds. Their pages count as resident only where they are mapped and were
    touched, so resident size alone would hide most of an image cache; shared pages are taken out of
    it and the memfds counted in full instead, each once.
    """
    fields = Path("/proc/self/statm").read_text().split()
    private = (int(fields[1]) - int(fields[2])) * PAGE_BYTES
    memfds: dict[int, int] = {}
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            if str(descriptor.readlink()).startswith("/memfd:"):
                status = descriptor.stat()
                memfds[status.st_ino] = status.st_blocks * _BLOCK_BYTES
        except FileNotFoundError:
            continue  # the descriptor that lists this directory is gone by now
    return private + sum(memfds.values())


def group_cpu_seconds(group: int) -> float:
    """Processor time, user and system, that the living processes of a process group have used."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The name, second field, may hold spaces and brackets; what follows the last one does not.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_SECOND
