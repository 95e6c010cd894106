"""What every test shares: a clean environment, how hard hypothesis tries, and compiled machine code."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree

import pytest
from hypothesis import HealthCheck, settings

from tests.engine.machine_code import compile_engine

# No deadline: how long one example takes on a busy machine says nothing about the code.
settings.register_profile(
    "default", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fuzz", settings.get_profile("default"), max_examples=20_000)
settings.register_profile("brief", settings.get_profile("default"), max_examples=20)
settings.load_profile("default")


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """Hide the `NEXUS_*` variables of whoever runs the tests, from tests and from processes they start."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("NEXUS_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def new_cache(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes disk caches that hold the engine's machine code and nothing else; gives their folders.

    The code is compiled once for all processes that share in a run of the tests.
    """
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent
    compiled = common / "engine"
    with (common / "engine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not compiled.exists():
            compile_engine(compiled)
    return lambda: Path(copytree(compiled, tmp_path_factory.mktemp("cache") / "cache"))
