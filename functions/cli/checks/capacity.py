"""Whether what the settings may use fits what the machine allows: memory, processors, files, mappings."""

from __future__ import annotations

import math

from functions.cli.checks.finding import Finding, counted, size_text
from functions.cli.checks.host import Host
from nexus_core.config import RuntimeConfig
from nexus_core.limits import MIB

PROCESS_BYTES = 150 * MIB
"""What one worker may take beside instances and caches, with room to spare.

55 MiB were measured once it served, 90 after it had compiled the engine itself; requests come on top."""

LEARNING_MAPPINGS = 640
"""Mappings of an instance while it learns which pages its handler touches: one for each page."""
_LEARNT_MAPPINGS = 40
_PROCESS_MAPPINGS = 400
_PROCESS_FILES = 64


def check_memory(config: RuntimeConfig, host: Host, largest: int, *, cache_in_memory: bool) -> Finding:
    """The memory all workers may use, against the cgroup's limit or what the machine has to give.

    `largest` is the largest `memory_limit_bytes` of all handlers, in bytes; `cache_in_memory`, whether
    the disk cache is on a file system that counts as memory.
    """
    pool = config.max_instances * largest
    if config.max_total_memory_bytes:
        pool = min(pool, config.max_total_memory_bytes)
    shared = config.max_cache_size_bytes if cache_in_memory else 0
    fixed = config.workers * (PROCESS_BYTES + config.max_cache_size_bytes) + shared
    most = fixed + config.workers * pool
    has, what = _memory_there(host)
    detail = _memory_lines(config, largest, pool, shared)
    if has is None:
        found = f"at most {size_text(most)}; how much there is cannot be read"
        return Finding(check="memory", verdict="warning", found=found, detail=detail)
    found = f"at most {size_text(most)} of {size_text(has)} ({what})"
    if fixed > has:
        advice = f"give it {size_text(_rounded(most))}, or lower NEXUS_WORKERS or NEXUS_MAX_CACHE_SIZE_BYTES"
        return Finding(check="memory", verdict="problem", found=found, detail=detail, advice=advice)
    if most > has:
        room = (has - fixed) // config.workers
        # Less than one instance would be no limit at all, or one that no call fits.
        bound = f"set NEXUS_MAX_TOTAL_MEMORY_BYTES={room // MIB}MiB, " if room >= largest else ""
        advice = (
            f"calls that use all they may would get the process killed: {bound}lower NEXUS_MAX_INSTANCES "
            f"or NEXUS_MEMORY_LIMIT_BYTES, or give it {size_text(_rounded(most))}"
        )
        return Finding(check="memory", verdict="warning", found=found, detail=detail, advice=advice)
    return Finding(check="memory", verdict="ok", found=found, detail=detail)


def _memory_lines(config: RuntimeConfig, largest: int, pool: int, shared: int) -> tuple[str, ...]:
    """What the sum is made of."""
    bounded = pool == config.max_total_memory_bytes
    why = "max_total_memory_bytes" if bounded else f"{config.max_instances} x {size_text(largest)}"
    cache = size_text(config.max_cache_size_bytes)
    lines = [
        f"{config.workers} x {size_text(PROCESS_BYTES)} for the process itself, with room to spare",
        f"{config.workers} x {size_text(pool)} for instances ({why})",
        f"{config.workers} x {cache} for the memory cache",
    ]
    if shared:
        lines.append(f"{cache} for the disk cache, which is in memory too")
    return tuple(lines)


def check_processors(config: RuntimeConfig, host: Host) -> Finding:
    """Workers against the processors this process may use at a time."""
    there = host.processors
    quota = "" if host.cpu_quota is None else f", by a quota of {host.cpu_quota:g}"
    found = f"{counted(config.workers, 'worker')}, {there:g} of {host.cpus} processors usable{quota}"
    if config.workers > math.ceil(there):
        advice = f"workers take processor time from each other: set NEXUS_WORKERS={math.ceil(there)}"
        return Finding(check="processors", verdict="warning", found=found, advice=advice)
    if there < 1:
        advice = "whoever computes is stopped in the middle until the next period: give it a whole processor"
        return Finding(check="processors", verdict="warning", found=found, advice=advice)
    note = None
    if there >= 2 * config.workers:
        note = f"a worker keeps one busy: NEXUS_WORKERS={math.floor(there)} would use them all"
    return Finding(check="processors", verdict="ok", found=found, advice=note)


def check_files(config: RuntimeConfig, host: Host) -> Finding:
    """Open files of one worker: a connection for each call that runs or waits, and one that it asks."""
    needed = _PROCESS_FILES + 2 * config.max_instances + config.max_waiting
    if host.open_files is None:
        return Finding(check="open files", verdict="ok", found="no limit")
    found = f"{host.open_files} allowed, about {needed} needed when all instances are busy"
    if host.open_files >= needed:
        return Finding(check="open files", verdict="ok", found=found)
    advice = f"beyond it connections are not accepted: raise the limit (ulimit -n {_power(needed)})"
    return Finding(check="open files", verdict="warning", found=found, advice=advice)


def check_mappings(config: RuntimeConfig, host: Host) -> Finding:
    """`vm.max_map_count` against the mappings of one worker, and what else of the kernel Nexus reads."""
    if host.address_space_bytes is not None:
        found = f"the address space is limited to {size_text(host.address_space_bytes)}"
        advice = "each instance reserves gigabytes of addresses, which cost nothing: ulimit -v unlimited"
        return Finding(check="mappings", verdict="problem", found=found, advice=advice)
    learning = _PROCESS_MAPPINGS + LEARNING_MAPPINGS * config.max_instances
    least = _PROCESS_MAPPINGS + _LEARNT_MAPPINGS * config.max_instances
    if host.max_map_count is None:
        found = "vm.max_map_count cannot be read"
        return Finding(check="mappings", verdict="warning", found=found)
    found = f"{host.max_map_count} allowed, {learning} needed when all instances are new"
    if least > host.max_map_count:
        advice = f"instances could not be made: sysctl -w vm.max_map_count={_power(learning)}"
        return Finding(check="mappings", verdict="problem", found=found, advice=advice)
    if learning > host.max_map_count:
        advice = (
            "new instances past it do not learn which pages to copy back, and are slower: "
            f"sysctl -w vm.max_map_count={_power(learning)}, or lower NEXUS_MAX_INSTANCES"
        )
        return Finding(check="mappings", verdict="warning", found=found, advice=advice)
    if not host.pagemap:
        found = "/proc/self/pagemap cannot be read"
        advice = "every page of an instance counts as touched, and calls are slower: let the process read it"
        return Finding(check="mappings", verdict="warning", found=found, advice=advice)
    return Finding(check="mappings", verdict="ok", found=found)


def _memory_there(host: Host) -> tuple[int | None, str]:
    if host.memory_limit_bytes is not None:
        return host.memory_limit_bytes, "the cgroup's limit"
    return host.memory_available_bytes, "available on this machine"


def _rounded(size: int) -> int:
    """To the next 64 MiB: nobody writes limits more finely."""
    return -(-size // (64 * MIB)) * 64 * MIB


def _power(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()
