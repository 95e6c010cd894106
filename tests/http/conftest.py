"""The application in this process, and servers as processes of their own."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from functions.http.app import Application, build_application
from nexus_core.build import build_runtime
from nexus_core.config import load_config
from nexus_core.runtime import Runtime
from tests.http.serving import SECRET, Server, environment, serving

ClientFactory = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture(scope="session")
def cache_dir(new_cache: Callable[[], Path]) -> Path:
    """One disk cache for all, so that each handler is compiled once; the engine is already."""
    return new_cache()


@asynccontextmanager
async def _application(tmp_path: Path, **settings: Any) -> AsyncIterator[tuple[Application, Runtime]]:
    local_only = settings.pop("local_only", True)
    runtime = build_runtime(load_config(environment(tmp_path, **{"store_url": "memory:", **settings})))
    await runtime.start()
    try:
        yield build_application(runtime, local_only=local_only), runtime
    finally:
        await runtime.shutdown(5)


@pytest.fixture
def client_of(tmp_path: Path, cache_dir: Path) -> ClientFactory:
    """Makes clients of an application in this process, with the settings given."""

    @asynccontextmanager
    async def open_client(**settings: Any) -> AsyncIterator[httpx.AsyncClient]:
        async with _application(tmp_path, cache_dir=cache_dir, **settings) as (application, _):
            transport = httpx.ASGITransport(application)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                yield client

    return open_client


@pytest.fixture
async def client(client_of: ClientFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application without tokens."""
    async with client_of() as client:
        yield client


@pytest.fixture
async def guarded(client_of: ClientFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that demands tokens."""
    async with client_of(jwt_secret=SECRET) as client:
        yield client


@pytest.fixture
async def application(tmp_path: Path, cache_dir: Path) -> AsyncIterator[tuple[Application, Runtime]]:
    """An application without tokens, and its runtime."""
    async with _application(tmp_path, cache_dir=cache_dir) as pair:
        yield pair


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Server]:
    """One server process with two workers and no tokens, shared by tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, cache_dir=cache_dir, workers=2, max_input_bytes=1_000_000) as server:
        yield server


@pytest.fixture(scope="session")
def guarded_server(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Server]:
    """One server process that demands tokens."""
    with serving(tmp_path_factory.mktemp("guarded"), cache_dir=cache_dir, jwt_secret=SECRET) as server:
        yield server
