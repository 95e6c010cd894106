"""What this machine, and the cgroup this process is in, allow: read from /proc and /sys, never guessed.

Both generations of cgroups are read, also side by side. A limit may stand on any folder between a
process's own and the top, so the least of them counts. In a container the path that /proc names may
not exist in its own /sys: then the folders above it, which exist, are the container's.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec

from nexus_core.limits import KIB

_MOST_BYTES = 64 * KIB
# The first generation writes "no limit" as the largest multiple of a page.
_NO_LIMIT = 1 << 60


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. None stands for "could not be read", or "no limit" where a limit is meant."""

    memory_limit_bytes: int | None
    memory_total_bytes: int | None
    memory_available_bytes: int | None
    cpu_quota: float | None
    cpus: int
    open_files: int | None
    max_map_count: int | None
    address_space_bytes: int | None
    pagemap: bool

    @property
    def processors(self) -> float:
        """How many processors this process may use at a time."""
        return self.cpus if self.cpu_quota is None else min(self.cpu_quota, self.cpus)


def read_host(root: Path = Path("/")) -> Host:
    """The limits of this process; `root` is where /proc and /sys are."""
    memory = _memory(root)
    return Host(
        memory_limit_bytes=_memory_limit(root, memory.get("MemTotal")),
        memory_total_bytes=memory.get("MemTotal"),
        memory_available_bytes=memory.get("MemAvailable"),
        cpu_quota=_cpu_quota(root),
        cpus=len(os.sched_getaffinity(0)),
        open_files=_soft_limit(resource.RLIMIT_NOFILE),
        max_map_count=_number(root / "proc/sys/vm/max_map_count"),
        address_space_bytes=_soft_limit(resource.RLIMIT_AS),
        pagemap=_can_read(root / "proc/self/pagemap"),
    )


def file_system(path: Path, root: Path = Path("/")) -> str | None:
    """The type of the file system that `path` is on, as the kernel names it; None when it does not tell."""
    where = path.resolve()
    best: tuple[int, str] | None = None
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        mounted = PurePosixPath(fields[4].replace("\\040", " "))
        # The last mount on a folder covers those before it.
        if where.is_relative_to(mounted) and (best is None or len(mounted.parts) >= best[0]):
            best = len(mounted.parts), after.split(" ")[0]
    return best[1] if best else None


def _memory(root: Path) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    found = {}
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        amount = rest.split()
        if len(amount) == 2 and amount[0].isdecimal():
            found[name] = int(amount[0]) * KIB
    return found


def _memory_limit(root: Path, total: int | None) -> int | None:
    """The least memory limit of our cgroups, None when there is none below the machine's own memory."""
    limits = [
        limit
        for file in ("memory.max", "memory.limit_in_bytes")
        for folder in _cgroups(root, "memory")
        if (limit := _number(folder / file)) is not None and limit < (total or _NO_LIMIT)
    ]
    return min(limits, default=None)


def _cpu_quota(root: Path) -> float | None:
    """The least processor quota of our cgroups, in processors."""
    quotas = []
    for folder in _cgroups(root, "cpu"):
        quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
        if not quota:
            quota = _text(folder / "cpu.cfs_quota_us").strip()
            period = _text(folder / "cpu.cfs_period_us").strip()
        # "max", and -1 in the first generation, stand for no quota.
        if quota.isdecimal() and period.isdecimal() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's cgroups that may limit `controller`, from its own to the top."""
    top = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            mounts = [top, top / "unified"]
        elif controller in controllers.split(","):
            mounts = [top / controllers, top / controller]
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        for mount in mounts:
            for part in (inner, *inner.parents):
                if ".." not in part.parts and (mount / part).is_dir():
                    yield mount / part


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() and len(text) < 20 else None


def _text(path: Path) -> str:
    """What a file of the kernel says, "" when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _can_read(path: Path) -> bool:
    try:
        with path.open("rb", buffering=0) as file:
            return len(file.read(8)) == 8
    except OSError:
        return False


def _soft_limit(kind: int) -> int | None:
    soft, _ = resource.getrlimit(kind)
    return None if soft == resource.RLIM_INFINITY else soft
