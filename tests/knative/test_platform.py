"""The platform's variables as settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from functions.knative.platform import platform_settings
from nexus_core.config import ConfigError, load_config
from tests.http.serving import Server, await_ready, environment, free_port

EVENT = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/t", "ce-type": "com.example.x"}


def test_the_platform_chooses_the_port() -> None:
    """PORT wins over what a Service's environment variables make of NEXUS_PORT."""
    config = load_config(platform_settings({"PORT": "9000", "NEXUS_PORT": "tcp://10.0.0.1:80"}))
    assert (config.port, config.host) == (9000, "0.0.0.0")


def test_a_port_that_is_none_is_refused() -> None:
    """A bad PORT is told like any bad setting."""
    with pytest.raises(ConfigError, match="NEXUS_PORT: 'http' is not allowed"):
        load_config(platform_settings({"PORT": "http"}))


def test_a_host_that_was_set_stays() -> None:
    """An operator may listen on one address only."""
    assert platform_settings({"NEXUS_HOST": "127.0.0.1"})["NEXUS_HOST"] == "127.0.0.1"


def test_a_sink_binding_becomes_the_event_sink() -> None:
    """K_SINK and the extensions of K_CE_OVERRIDES say where events go, unless it was set by hand."""
    bound = {"K_SINK": "http://broker/ns", "K_CE_OVERRIDES": '{"extensions": {"team": "shop"}}'}
    config = load_config(platform_settings(bound))
    assert (config.event_sink, json.loads(config.event_attributes)) == ("http://broker/ns", {"team": "shop"})
    assert platform_settings({**bound, "NEXUS_EVENT_SINK": "log:"})["NEXUS_EVENT_SINK"] == "log:"
    assert json.loads(platform_settings({**bound, "K_CE_OVERRIDES": ""})["NEXUS_EVENT_ATTRIBUTES"]) == {}


@pytest.mark.parametrize("text", ["[]", "{", '{"extensions": {"n": 1}}'])
def test_bad_overrides_are_refused(text: str) -> None:
    """What is no override of the contract stops the start by its name."""
    with pytest.raises(ConfigError, match=r"^K_CE_OVERRIDES: "):
        platform_settings({"K_CE_OVERRIDES": text})


def test_the_container_serves_its_port_and_logs_to_standard_output(tmp_path: Path) -> None:
    """The entry answers calls and events at PORT, logs JSON to standard output, and ends with code 0."""
    port = free_port()
    settings = environment(tmp_path, auth="off", log_format="json", host="127.0.0.1")
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "functions.knative"],
            env={**settings, "PORT": str(port), "K_SINK": "http://127.0.0.1:9/"},
            stdout=out,
            stderr=err,
        )
    server = Server(process, port)
    try:
        await_ready(server, tmp_path / "err")
        assert httpx.post(f"{server.url}/invoke/hello", json={"who": "bob"}).status_code == 200
        answer = httpx.post(f"{server.url}/", json={"do": "nothing"}, headers=EVENT)
        assert answer.status_code == 202
        assert server.stop() == 0
    finally:
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [line["handler"] for line in lines if line["logger"] == "nexus.call"] == ["hello", "consume"]
    assert (tmp_path / "err").read_text() == ""


def test_a_bad_setting_ends_the_container_with_one_line(tmp_path: Path) -> None:
    """Without a token's secret, or the word that none is needed, nothing is served to others."""
    process = subprocess.run(
        [sys.executable, "-m", "functions.knative"],
        env={**os.environ, "PORT": str(free_port()), "NEXUS_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert process.returncode == 2
    assert process.stderr.decode().startswith("nexus: NEXUS_HOST: '0.0.0.0' is reachable by others")
