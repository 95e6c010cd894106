"""Settings against what a machine allows, each at the last value that fits and the first that does not."""

from typing import Any

import msgspec
import pytest

from functions.cli.checks.capacity import (
    PROCESS_BYTES,
    check_files,
    check_mappings,
    check_memory,
    check_processors,
)
from functions.cli.checks.host import Host
from nexus_core.config import RuntimeConfig

MIB = 1024 * 1024
ROOMY = Host(
    memory_limit_bytes=None,
    memory_total_bytes=16384 * MIB,
    memory_available_bytes=8192 * MIB,
    cpu_quota=None,
    cpus=4,
    open_files=None,
    max_map_count=65_530,
    address_space_bytes=None,
    pagemap=True,
)
CONFIG = RuntimeConfig(max_instances=10, max_cache_size_bytes=64 * MIB, workers=2)
MOST = 2 * (PROCESS_BYTES + 64 * MIB + 10 * 32 * MIB)
FIXED = 2 * (PROCESS_BYTES + 64 * MIB)


def host(**changed: Any) -> Host:
    """The roomy machine, with less of something."""
    return msgspec.structs.replace(ROOMY, **changed)


@pytest.mark.parametrize(
    ("there", "verdict"),
    [(MOST, "ok"), (MOST - 1, "warning"), (FIXED, "warning"), (FIXED - 1, "problem")],
)
def test_memory_against_the_limit(there: int, verdict: str) -> None:
    """All that workers may use fits, or is only there while not all is used, or never."""
    found = check_memory(CONFIG, host(memory_limit_bytes=there), 32 * MIB, cache_in_memory=False)
    assert found.verdict == verdict
    assert "the cgroup's limit" in found.found
    assert (found.advice is None) == (verdict == "ok")


def test_memory_without_a_limit() -> None:
    """Without a cgroup's limit, what the machine has to give counts; without that, nothing can be told."""
    available = check_memory(CONFIG, host(memory_available_bytes=MOST - 1), 32 * MIB, cache_in_memory=False)
    assert (available.verdict, "available on this machine" in available.found) == ("warning", True)
    unread = check_memory(CONFIG, host(memory_available_bytes=None), 32 * MIB, cache_in_memory=False)
    assert (unread.verdict, "cannot be read" in unread.found) == ("warning", True)


def test_memory_counts_what_it_says() -> None:
    """A larger limit of one handler and a disk cache in memory count, and a bound of the pool helps."""
    here = host(memory_limit_bytes=MOST)
    assert check_memory(CONFIG, here, 33 * MIB, cache_in_memory=False).verdict == "warning"
    in_memory = check_memory(CONFIG, here, 32 * MIB, cache_in_memory=True)
    assert (in_memory.verdict, in_memory.detail[-1][:6]) == ("warning", "64 MiB")
    bounded = msgspec.structs.replace(CONFIG, max_total_memory_bytes=320 * MIB)
    assert check_memory(bounded, here, 3200 * MIB, cache_in_memory=False).verdict == "ok"


def test_the_advised_bound_fits() -> None:
    """The bound of the pool that is advised mends it; one that fits no instance is not advised."""
    here = host(memory_limit_bytes=FIXED + 100 * MIB)
    advice = check_memory(CONFIG, here, 32 * MIB, cache_in_memory=False).advice
    assert "NEXUS_MAX_TOTAL_MEMORY_BYTES=50MiB" in (advice or "")
    bounded = msgspec.structs.replace(CONFIG, max_total_memory_bytes=50 * MIB)
    assert check_memory(bounded, here, 32 * MIB, cache_in_memory=False).verdict == "ok"
    least = check_memory(CONFIG, host(memory_limit_bytes=FIXED), 32 * MIB, cache_in_memory=False)
    assert "MAX_TOTAL" not in (least.advice or "")


@pytest.mark.parametrize(
    ("workers", "quota", "verdict", "advised"),
    [
        (1, 1.0, "ok", None),
        (2, 1.5, "ok", None),
        (3, 1.5, "warning", "NEXUS_WORKERS=2"),
        (4, None, "ok", None),
        (5, None, "warning", "NEXUS_WORKERS=4"),
        (1, 0.5, "warning", "a whole processor"),
        (2, None, "ok", "NEXUS_WORKERS=4"),
    ],
)
def test_workers_against_processors(
    workers: int, quota: float | None, verdict: str, advised: str | None
) -> None:
    """More workers than processors, or less than one processor, is told; so are processors left over."""
    found = check_processors(RuntimeConfig(workers=workers), host(cpu_quota=quota))
    assert found.verdict == verdict
    assert (advised in (found.advice or "")) if advised else found.advice is None


@pytest.mark.parametrize(("files", "verdict"), [(184, "ok"), (183, "warning"), (None, "ok")])
def test_open_files(files: int | None, verdict: str) -> None:
    """Connections of all calls that run or wait must be possible at a time."""
    assert check_files(RuntimeConfig(), host(open_files=files)).verdict == verdict


@pytest.mark.parametrize(
    ("instances", "verdict"), [(101, "ok"), (102, "warning"), (1628, "warning"), (1629, "problem")]
)
def test_mappings(instances: int, verdict: str) -> None:
    """With the kernel's default, 101 new instances learn their pages, and 1628 can be made at all."""
    assert check_mappings(RuntimeConfig(max_instances=instances), ROOMY).verdict == verdict


@pytest.mark.parametrize(
    ("changed", "verdict", "word"),
    [
        ({"address_space_bytes": 1 << 40}, "problem", "ulimit -v"),
        ({"pagemap": False}, "warning", "pagemap"),
        ({"max_map_count": None}, "warning", "max_map_count"),
    ],
)
def test_a_kernel_that_allows_less(changed: dict[str, Any], verdict: str, word: str) -> None:
    """A limit on addresses stops the server; pages that cannot be looked at make it slower."""
    found = check_mappings(RuntimeConfig(), host(**changed))
    assert (found.verdict, word in f"{found.found} {found.advice}") == (verdict, True)
