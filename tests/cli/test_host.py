"""What /proc and /sys say, read from folders that hold what kernels write there."""

from pathlib import Path

import pytest

from functions.cli.checks.host import file_system, read_host

MIB = 1024 * 1024
NO_LIMIT_V1 = "9223372036854771712\n"


def write(root: Path, **files: str) -> Path:
    """Files below `root`, by path with `__` for each slash."""
    for name, text in {"proc__meminfo": "MemTotal: 4096000 kB\nMemAvailable: 2048000 kB\n", **files}.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_second_generation(tmp_path: Path) -> None:
    """Memory and processors of cgroups v2 are the least of the folders from our own to the top."""
    root = write(
        tmp_path,
        proc__self__cgroup="0::/kubepods/pod1\n",
        sys__fs__cgroup__kubepods__memory_dot_max=f"{512 * MIB}\n",
        sys__fs__cgroup__kubepods__cpu_dot_max="150000 100000\n",
        sys__fs__cgroup__kubepods__pod1__memory_dot_max="max\n",
        sys__fs__cgroup__kubepods__pod1__cpu_dot_max="max 100000\n",
    )
    host = read_host(root)
    assert (host.memory_limit_bytes, host.cpu_quota) == (512 * MIB, 1.5)
    assert host.processors == min(1.5, host.cpus)


def test_a_container_of_the_second_generation(tmp_path: Path) -> None:
    """In a cgroup namespace the limits stand at the top, and a path that is not there is climbed."""
    root = write(
        tmp_path,
        proc__self__cgroup="0::/system.slice/docker-1\n",
        sys__fs__cgroup__memory_dot_max=f"{256 * MIB}\n",
        sys__fs__cgroup__cpu_dot_max="50000 100000\n",
    )
    host = read_host(root)
    assert (host.memory_limit_bytes, host.cpu_quota) == (256 * MIB, 0.5)


def test_the_first_generation(tmp_path: Path) -> None:
    """Memory and processors of cgroups v1 are found, mounted together or apart."""
    root = write(
        tmp_path,
        proc__self__cgroup="4:memory:/a/b\n2:cpu,cpuacct:/a\n1:name=systemd:/\n0::/\n",
        sys__fs__cgroup__memory__a__b__memory_dot_limit_in_bytes=f"{128 * MIB}\n",
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes=NO_LIMIT_V1,
        **{
            "sys__fs__cgroup__cpu,cpuacct__a__cpu_dot_cfs_quota_us": "200000\n",
            "sys__fs__cgroup__cpu,cpuacct__a__cpu_dot_cfs_period_us": "100000\n",
            "sys__fs__cgroup__cpu,cpuacct__cpu_dot_cfs_quota_us": "-1\n",
            "sys__fs__cgroup__cpu,cpuacct__cpu_dot_cfs_period_us": "100000\n",
        },
    )
    host = read_host(root)
    assert (host.memory_limit_bytes, host.cpu_quota) == (128 * MIB, 2.0)


@pytest.mark.parametrize("limit", ["max\n", NO_LIMIT_V1, "", "-1", "many", "9" * 30, "4194304000\n"])
def test_no_limit(tmp_path: Path, limit: str) -> None:
    """What is no number, or no less than the machine has, is no limit."""
    root = write(
        tmp_path,
        proc__self__cgroup="4:memory:/\n0::/../..\n",
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes=limit,
        sys__fs__cgroup__memory_dot_max=limit,
    )
    host = read_host(root)
    assert (host.memory_limit_bytes, host.memory_available_bytes) == (None, 2048000 * 1024)


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    """Without /proc and /sys nothing is known, and nothing breaks."""
    host = read_host(tmp_path)
    assert (host.memory_limit_bytes, host.memory_available_bytes, host.max_map_count) == (None, None, None)
    assert not host.pagemap


def test_this_machine() -> None:
    """The machine that runs the tests has memory, processors, mappings, and tells of its pages."""
    host = read_host()
    assert (host.memory_available_bytes or 0) > MIB
    assert host.cpus >= 1
    assert (host.max_map_count or 0) > 1000
    assert host.pagemap


def test_the_file_system_of_a_path(tmp_path: Path) -> None:
    """The innermost and last mount above a path names its file system."""
    lines = (
        "1 0 8:1 / / rw - ext4 /dev/a rw",
        "2 1 0:5 / /tmp rw,noexec shared:3 - xfs b rw",
        "3 2 0:6 / /tmp/in\\040memory rw - tmpfs tmpfs rw",
        "4 2 0:7 / /tmp rw - overlay c rw",
        "nonsense",
    )
    root = write(tmp_path, proc__self__mountinfo="\n".join(lines))
    paths = ("/tmp/in memory/cache", "/tmp/memory", "/tmpfile")
    assert [file_system(Path(path), root) for path in paths] == ["tmpfs", "overlay", "ext4"]
    assert file_system(Path("/"), tmp_path / "nothing") is None
