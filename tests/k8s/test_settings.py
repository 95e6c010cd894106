"""Settings in the manifests: Nexus accepts them, all can be set, and they fit one another and the pod."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath

import pytest

from nexus_core.config import MIN_SECRET_BYTES, RuntimeConfig, load_config, settings
from tests.k8s.conftest import Kubernetes
from tests.k8s.test_manifests import DEPLOYED, SERVED, amount, nexus_of

MIB = 2**20
PROCESS_BYTES = 150 * MIB
"""What a worker needs besides instances and caches: `make images` reads 38 MiB when it is ready."""
SECRETS = {"NEXUS_JWT_SECRET", "NEXUS_CACHE_KEY"}
STOP_MARGIN_SECONDS = 5
USER = 65532

# What the kubelet makes of an `emptyDir` with an `fsGroup`: root's, and open to a group and to all.
USE_CACHE = f"""
import os, sys
from pathlib import Path
from nexus_core.caches.disk import DiskCache

volume, folder = map(Path, sys.argv[1:])
if os.geteuid() == 0:
    os.setgroups([{USER}])
    os.setgid({USER})
    os.setuid({USER})
for place in (volume, folder):
    told = []
    cache = DiskCache(place, secret=None, max_bytes=2**20, on_event=lambda *_: None, on_degraded=told.append)
    cache.store("0" * 64, b"kept")
    print(cache.load("0" * 64), *told)
"""


def config_of(kubernetes: Kubernetes, folder: str) -> RuntimeConfig:
    """The settings a pod of a folder starts with."""
    data = kubernetes.one(folder, "ConfigMap")["data"]
    env = {one["name"] for one in nexus_of(kubernetes, folder).container["env"]}
    return load_config(data | dict.fromkeys(env & SECRETS, "k" * MIN_SECRET_BYTES))


@pytest.mark.parametrize("folder", [*DEPLOYED, *SERVED])
def test_nexus_accepts_its_settings(kubernetes: Kubernetes, folder: str) -> None:
    """ConfigMap and Secret together are what Nexus starts with, with tokens unless told otherwise."""
    config = config_of(kubernetes, folder)
    assert (config.jwt_secret is None) == (config.auth == "off")


@pytest.mark.parametrize("folder", [*DEPLOYED, *SERVED])
def test_every_variable_can_be_set(kubernetes: Kubernetes, folder: str) -> None:
    """All of the ConfigMap becomes variables that nothing overrules, and secrets come from the Secret."""
    container = nexus_of(kubernetes, folder).container
    name = kubernetes.one(folder, "ConfigMap")["metadata"]["name"]
    assert container["envFrom"] == [{"configMapRef": {"name": name}}]
    from_secret = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"]}
    assert {one["name"] for one in from_secret.values()} == {"nexus"}
    asks_for_tokens = config_of(kubernetes, folder).auth == "jwt"
    assert set(from_secret) == (SECRETS if asks_for_tokens else SECRETS - {"NEXUS_JWT_SECRET"})
    assert {setting.variable for setting in settings()} > SECRETS
    required = {name for name, key in from_secret.items() if not key.get("optional")}
    assert required == ({"NEXUS_JWT_SECRET"} if asks_for_tokens else set())


@pytest.mark.parametrize("folder", [*DEPLOYED, *SERVED])
def test_memory_fits_the_limit(kubernetes: Kubernetes, folder: str) -> None:
    """Instances, both caches and the processes fit into the pod's memory, the disk cache into its volume."""
    config = config_of(kubernetes, folder)
    pods = nexus_of(kubernetes, folder)
    (volume,) = (one["emptyDir"] for one in pods.spec["volumes"] if one["name"] == "cache")
    assert 0 < config.max_cache_size_bytes < amount(volume["sizeLimit"])
    workers = config.workers * (PROCESS_BYTES + config.max_total_memory_bytes + config.max_cache_size_bytes)
    limit = amount(pods.container["resources"]["limits"]["memory"])
    assert 0 < workers + config.max_cache_size_bytes < limit


@pytest.mark.parametrize("folder", DEPLOYED)
def test_a_deployed_pod_has_time_to_drain(kubernetes: Kubernetes, folder: str) -> None:
    """The grace period covers the wait before SIGTERM, the drain, and the margin after it."""
    pods = nexus_of(kubernetes, folder)
    before = pods.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = config_of(kubernetes, folder).shutdown_timeout_ms / 1000
    assert pods.spec["terminationGracePeriodSeconds"] > before + drain + STOP_MARGIN_SECONDS


@pytest.mark.parametrize("folder", SERVED)
def test_a_served_pod_has_time_to_drain(kubernetes: Kubernetes, folder: str) -> None:
    """Knative's time for a request, which is the grace period too, covers a drain and the longest call."""
    config = config_of(kubernetes, folder)
    seconds = nexus_of(kubernetes, folder).spec["timeoutSeconds"]
    longest_ms = max(config.shutdown_timeout_ms, config.acquire_timeout_ms + config.limits.timeout_ms)
    assert seconds > longest_ms / 1000 + STOP_MARGIN_SECONDS


@pytest.mark.parametrize("folder", [*DEPLOYED, *SERVED])
def test_the_cache_lies_inside_its_volume(kubernetes: Kubernetes, folder: str) -> None:
    """The disk cache is a folder in the volume, not the volume, and the store lies on the writable `/tmp`."""
    config = config_of(kubernetes, folder)
    assert PurePosixPath(config.cache_dir).parent == PurePosixPath("/tmp/nexus-cache")
    assert config.store_url.startswith(("sqlite:////tmp/", "redis"))


def test_a_volume_of_the_kubelet_holds_the_cache() -> None:
    """In a group-writable volume of root's the cache works one folder down, and is refused at the top."""
    # Not in pytest's own folder, which another user cannot enter.
    top = Path(tempfile.mkdtemp())
    try:
        top.chmod(0o755)
        volume = top / "nexus-cache"
        volume.mkdir()
        if os.geteuid() == 0:
            os.chown(volume, 0, USER)
        volume.chmod(0o2777)
        done = subprocess.run(
            [sys.executable, "-c", USE_CACHE, volume, volume / "disk"],
            capture_output=True,
            text=True,
            check=True,
        )
        refused, worked = done.stdout.splitlines()
        assert refused in ("None foreign_owner", "None writable_by_others")
        assert worked == "b'kept'"
    finally:
        shutil.rmtree(top)


def test_the_redis_overlay_uses_redis_as_soon_as_nexus_can(kubernetes: Kubernetes) -> None:
    """The overlay names a Redis as the store exactly when Nexus takes one."""
    (store,) = (setting for setting in settings() if setting.variable == "NEXUS_STORE_URL")
    container = nexus_of(kubernetes, "overlays/redis").container
    data = kubernetes.one("overlays/redis", "ConfigMap")["data"]
    from_secret = any(one["name"] == "NEXUS_STORE_URL" for one in container["env"])
    uses_redis = from_secret or data["NEXUS_STORE_URL"].startswith("redis")
    assert uses_redis == ("redis" in store.allowed)
