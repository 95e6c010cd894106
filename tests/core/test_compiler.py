"""The compiler: from memory, from disk, from a seed or compiled, once, and roomier for who outgrows it."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from nexus_core.compiler import MOST_COMPILES
from nexus_core.engine.javascript_kind import JavaScriptKind
from nexus_core.errors import (
    CompilationError,
    ErrorCode,
    HandlerTimeout,
    InvalidHandler,
    MemoryLimitExceeded,
    NexusError,
)
from nexus_core.handler_source import HandlerSource
from nexus_core.limits import KIB, MIB
from nexus_core.runtime import Runtime
from tests.core.runtimes import RuntimeFactory, body, call, error, handler, until, value
from tests.core.scraping import scrape
from tests.core.scraping import value as sample


@pytest.fixture
def cache(kind: JavaScriptKind, code_cache: Path, tmp_path: Path) -> Path:
    """A cache folder of this test's own, which holds the guest's machine code already."""
    own = Path(shutil.copytree(code_cache, tmp_path / "cache"))
    own.chmod(0o700)
    return own


def entries(cache: Path) -> set[Path]:
    """The files in a cache folder."""
    return set(cache.iterdir())


def flip_a_bit(entry: Path) -> None:
    """Damage a file in its middle."""
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 1
    entry.write_bytes(data)


def arena_bytes(runtime: Runtime) -> int:
    """What the file that backs all images takes."""
    return os.fstat(runtime._parts.arena.descriptor).st_blocks * 512


def looks(runtime: Runtime) -> dict[tuple[str, str], int]:
    """How often each tier was asked for anything, by result."""
    return {
        (dict(labels)["tier"], dict(labels)["result"]): int(number)
        for (name, labels), number in scrape(runtime.metrics).items()
        if name == "nexus_cache_requests_total"
    }


def since(runtime: Runtime, before: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """The looks into the tiers since another time."""
    now = looks(runtime)
    return {key: now[key] - before.get(key, 0) for key in now if now[key] != before.get(key, 0)}


def fresh(code: str = "export default (event) => event", **changes: object) -> HandlerSource:
    """A handler whose text no other test has, so that no cache holds its image."""
    unique = f"{code}\n// {id(object())} {asyncio.get_running_loop().time()}"
    return handler(unique, **changes)  # type: ignore[arg-type]


async def test_a_handler_is_compiled_once_and_then_in_memory(start: RuntimeFactory, cache: Path) -> None:
    """The first look compiles and fills both tiers; the next one finds the image in memory."""
    runtime = await start(cache_dir=cache)
    source, before = fresh(), looks(runtime)
    compiled, found, took = await runtime.compiler.get(source)
    assert not found
    assert took is not None
    assert since(runtime, before) == {("memory", "miss"): 1, ("disk", "miss"): 1, ("compile", "miss"): 1}
    before = looks(runtime)
    again, found, took = await runtime.compiler.get(source)
    assert (again.image is compiled.image, found, took) == (True, True, None)
    assert since(runtime, before) == {("memory", "hit"): 1}


async def test_another_process_finds_the_image_on_disk(start: RuntimeFactory, cache: Path) -> None:
    """A second runtime over the same folder compiles nothing, and its handler runs."""
    source = fresh(body("return ['from disk', event]"))
    await (await start(cache_dir=cache)).check(source)
    second = await start(cache_dir=cache)
    before = looks(second)
    result = await second.execute_source(source, call(1))
    assert (value(result), result.metrics.cache_hit) == (["from disk", 1], True)
    assert since(second, before) == {("memory", "miss"): 1, ("disk", "hit"): 1}


async def test_a_seed_is_asked_after_the_disk(start: RuntimeFactory, cache: Path, tmp_path: Path) -> None:
    """What another machine compiled is found in the read-only seed, keyed with the same secret."""
    secret, seed = "s" * 40, tmp_path / "seed"
    source = fresh()
    await (await start(cache_dir=cache, cache_key=secret)).check(source)
    shutil.copytree(cache, seed)
    seed.chmod(0o755)
    runtime = await start(cache_dir=tmp_path / "empty", cache_seed_dir=seed, cache_key=secret)
    before = looks(runtime)
    _, found, _ = await runtime.compiler.get(source)
    assert found
    assert since(runtime, before) == {("memory", "miss"): 1, ("disk", "miss"): 1, ("seed", "hit"): 1}


async def test_fifty_first_calls_compile_once(start: RuntimeFactory, cache: Path) -> None:
    """Whoever comes while a handler is being compiled waits for that compile, and all are answered."""
    runtime = await start(cache_dir=cache, max_instances=2)
    source, before = fresh(), looks(runtime)
    results = await asyncio.gather(*(runtime.execute_source(source, call(n)) for n in range(50)))
    assert [value(result) for result in results] == list(range(50))
    assert since(runtime, before)["compile", "miss"] == 1


async def test_handlers_of_the_same_text_share_an_image_but_no_policy(runtime: Runtime) -> None:
    """Two names, or two manifests, over one text compile once; each keeps its own capabilities and name."""
    code = f"export default (event, ctx) => {{ $emit('x'); return ctx.handler }} // {id(runtime)}"
    one, two = handler(code, "events:emit:x", name="one"), handler(code, name="two")
    first, second = await runtime.check(one), await runtime.check(two)
    assert first.image is second.image
    for _ in range(2):
        assert value(await runtime.execute_source(one, call())) == "one"
        assert error(await runtime.execute_source(two, call())).code is ErrorCode.PERMISSION_DENIED


async def test_a_changed_file_is_another_handler(runtime: Runtime) -> None:
    """Any file of the folder counts: the digest changes with it, and the new code runs."""
    entry = "import { word } from './word.js';\nexport default () => word"
    sources = [handler(entry, files={"word.js": f"export const word = '{word}'"}) for word in ("old", "new")]
    assert sources[0].digest != sources[1].digest
    assert [value(await runtime.execute_source(source, call())) for source in sources] == ["old", "new"]
    assert value(await runtime.execute_source(sources[0], call())) == "old"


async def test_a_handler_that_is_forgotten_is_found_again(runtime: Runtime) -> None:
    """Forgetting a name costs a look into memory, no compile."""
    source = fresh()
    first = await runtime.check(source)
    runtime.compiler.forget(frozenset({source.name, "nobody"}))
    before = looks(runtime)
    assert (await runtime.check(source)).image is first.image
    assert since(runtime, before) == {("memory", "hit"): 1}


# ---- broken and bounded caches ---------------------------------------------------------------


async def test_a_damaged_file_is_compiled_anew(start: RuntimeFactory, cache: Path) -> None:
    """A flipped bit in the stored image costs a compile, never a wrong handler."""
    source = fresh(body("return 'right'"))
    first = await start(cache_dir=cache)
    known = entries(cache)
    await first.check(source)
    (entry,) = entries(cache) - known
    flip_a_bit(entry)
    second = await start(cache_dir=cache)
    before = looks(second)
    assert value(await second.execute_source(source, call())) == "right"
    assert since(second, before) == {("memory", "miss"): 1, ("disk", "error"): 1, ("compile", "miss"): 1}
    third = await start(cache_dir=cache)
    assert (await third.compiler.get(source))[1]


async def test_a_stored_image_that_does_not_fit_is_compiled_anew(start: RuntimeFactory, cache: Path) -> None:
    """What is verified to be ours, and yet is no image of this guest, is an error of the disk tier."""
    source = fresh(body("return 'right'"))
    first = await start(cache_dir=cache)
    first.compiler._cache.store(first.compiler._key(source), b"another build's image")
    before = looks(first)
    assert value(await first.execute_source(source, call())) == "right"
    assert since(first, before)["disk", "error"] == 1
    assert (await (await start(cache_dir=cache)).compiler.get(source))[1]


async def test_memory_that_holds_no_image_still_answers(start: RuntimeFactory, cache: Path) -> None:
    """With `max_cache_size_bytes` 0 every call compiles, and every call is right."""
    runtime = await start(cache_dir=cache, max_cache_size_bytes=0)
    source, before = fresh(), looks(runtime)
    for number in range(3):
        assert value(await runtime.execute_source(source, call(number))) == number
    assert since(runtime, before)["compile", "miss"] == 3


@pytest.mark.parametrize(("room", "hits"), [(-1, 0), (0, 3), (1, 3)])
async def test_memory_keeps_images_up_to_its_bound(
    start: RuntimeFactory, cache: Path, room: int, hits: int
) -> None:
    """Images that fit `max_cache_size_bytes` to the byte stay; one byte less, and the least used one goes."""
    sources = [fresh(name=name) for name in ("one", "two", "three")]
    measuring = await start(cache_dir=cache)
    total = sum([(await measuring.check(source)).image.size for source in sources])
    runtime = await start(cache_dir=cache, max_cache_size_bytes=total + room)
    for source in sources:
        await runtime.check(source)
    before = looks(runtime)
    for source in sources:
        await runtime.check(source)
    assert since(runtime, before).get(("memory", "hit"), 0) == hits
    assert sample(scrape(runtime.metrics), "nexus_cache_bytes", tier="memory") <= total + room


async def test_images_that_fell_out_of_memory_are_freed(start: RuntimeFactory, cache: Path) -> None:
    """Compiling many handlers leaves no more than the bound in the file that backs their pages."""
    runtime = await start(cache_dir=cache, max_cache_size_bytes=512 * KIB)
    empty = arena_bytes(runtime)
    for number in range(40):
        await runtime.check(handler(f"export default () => {number} + {id(runtime)}", name=f"h{number}"))
    assert sample(scrape(runtime.metrics), "nexus_cache_bytes", tier="memory") <= 512 * KIB
    assert 0 < arena_bytes(runtime) - empty <= 512 * KIB


# ---- handlers that do not compile ------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "name", "line", "column", "shown"),
    [
        ("export default () => {\n  return 1 +* 2;\n}", "SyntaxError", 2, 13, "return 1 +* 2;"),
        ("const a = 1;\nnull.x;\nexport default () => a", "TypeError", 2, None, "null.x;"),
        ("import x from './gone.js';\nexport default x", "SyntaxError", 1, 15, "import x from './gone.js';"),
        ("import x from 'left-pad';\nexport default x", "SyntaxError", 1, 15, "import x from 'left-pad';"),
    ],
)
async def test_a_compile_error_points_at_its_place(
    runtime: Runtime, code: str, name: str, line: int, column: int | None, shown: str
) -> None:
    """File, line and column of the author's own source, and the line itself."""
    with pytest.raises(CompilationError) as caught:
        await runtime.check(handler(code))
    place = caught.value.location
    assert caught.value.name == name
    assert place is not None
    assert (place.file, place.line) == ("index.js", line)
    assert column is None or place.column == column
    assert caught.value.snippet is not None
    assert shown in caught.value.snippet


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("export const a = 1", "export a default function"),
        ("export default 42", "export a default function"),
        ("await new Promise(() => {});\nexport default () => 1", "never finished loading"),
        ("throw new Error('no luck');\nexport default () => 1", "no luck"),
        ("$state.a = 1;\nexport default () => 1", "only there while the handler runs"),
        ("const f = () => f();\nf();\nexport default f", "recursed too deeply"),
    ],
)
async def test_a_handler_that_does_not_load_says_why(runtime: Runtime, code: str, message: str) -> None:
    """Whatever keeps the module from loading is the author's error, in words that help."""
    with pytest.raises((CompilationError, InvalidHandler), match=message):
        await runtime.check(handler(code))


async def test_a_failed_compile_is_not_remembered(runtime: Runtime) -> None:
    """The next call tries again: what failed for its limits may pass with others."""
    code = f"const data = new Uint8Array(6 << 20).fill(1);\nexport default () => data.length // {id(runtime)}"
    with pytest.raises(NexusError):
        await runtime.check(handler(code, memory_limit_bytes=4 * MIB))
    before = looks(runtime)
    assert value(await runtime.execute_source(handler(code), call())) == 6 << 20
    assert since(runtime, before)["compile", "miss"] == 1


@pytest.mark.parametrize("code", ["for (;;);", "for (;;) await null;"])
async def test_a_handler_that_loads_for_ever_is_stopped(runtime: Runtime, code: str) -> None:
    """Its own time limit ends the compile, for all who wait for it, and other handlers go on."""
    source = handler(f"{code}\nexport default () => 1", name="endless", timeout_ms=60)
    results = await asyncio.gather(
        *(runtime.execute_source(source, call()) for _ in range(5)),
        runtime.execute_source(handler(body("return 1"), name="good"), call()),
    )
    assert value(results.pop()) == 1
    for result in results:
        info = error(result)
        assert info.code is ErrorCode.TIMEOUT
        assert info.limit is not None
        assert (info.limit.name, info.limit.value) == ("timeout_ms", 60)
    assert runtime.pool.instances_created == 1


async def test_a_handler_that_takes_all_memory_to_load_is_stopped(runtime: Runtime) -> None:
    """Its memory limit holds while it loads."""
    code = "const all = [];\nfor (;;) all.push(new Uint8Array(1 << 16).fill(1));\nexport default () => 1"
    with pytest.raises((MemoryLimitExceeded, CompilationError)):
        await runtime.check(handler(code, memory_limit_bytes=4 * MIB))


async def test_few_handlers_are_compiled_at_once(runtime: Runtime) -> None:
    """Handlers that load for ever wait for each other, so that calls keep their threads and memory."""
    sources = [
        handler(f"for (;;);\nexport default () => {number}", name=f"endless-{number}", timeout_ms=300)
        for number in range(MOST_COMPILES * 3)
    ]
    good = handler(body("while (ctx.remainingMs() > 29_950); return 1"), name="good", timeout_ms=30_000)
    await runtime.check(good)
    compiling = [asyncio.create_task(runtime.check(source)) for source in sources]
    await until(runtime.compiler._compiling.locked)
    assert value(await runtime.execute_source(good, call())) == 1
    assert not compiling[-1].done()
    for task in compiling:
        task.cancel()
    await asyncio.wait(compiling)
    await until(lambda: not runtime.compiler._compiling.locked())
    assert value(await runtime.execute_source(fresh(body("return 2"), name="next"), call())) == 2


async def test_who_asked_for_a_compile_may_leave(runtime: Runtime) -> None:
    """The compile goes on for the others, and ends with the last; the next one starts anew."""
    source = handler(
        f"const end = Date.now() + 50;\nwhile (Date.now() < end);\nexport default () => {id(runtime)}"
    )
    first, second = (asyncio.create_task(runtime.check(source)) for _ in range(2))
    await until(lambda: runtime.compiler._flights)
    first.cancel()
    assert (await second).source is source
    await asyncio.wait([first])
    endless = handler("for (;;);\nexport default () => 1", name="endless", timeout_ms=400)
    alone = asyncio.create_task(runtime.check(endless))
    await until(lambda: runtime.compiler._flights)
    alone.cancel()
    await asyncio.wait([alone])
    with pytest.raises(HandlerTimeout):
        await runtime.check(endless)


# ---- handlers that outgrow their image -------------------------------------------------------


async def test_a_handler_that_keeps_growing_gets_a_roomier_image(runtime: Runtime) -> None:
    """After some calls that outgrew it, a compile leaves room, and calls no longer cost an instance."""
    code = f"export default () => new Uint8Array(4 << 20).fill(1).length // {id(runtime)}"
    source = handler(code, name="grower")
    small = (await runtime.check(source)).image.memory_size
    grown = 0
    while not sample(scrape(runtime.metrics), "nexus_images_regrown_total"):
        assert value(await runtime.execute_source(source, call())) == 4 << 20
        grown += 1
        assert grown < 50
        await asyncio.sleep(0.01)
    assert grown >= 3
    while (await runtime.check(source)).image.memory_size < small + (4 << 20):
        assert value(await runtime.execute_source(source, call())) == 4 << 20
        await asyncio.sleep(0.01)
    value(await runtime.execute_source(source, call()))
    made = runtime.pool.instances_created
    for _ in range(3):
        assert value(await runtime.execute_source(source, call())) == 4 << 20
    assert runtime.pool.instances_created == made


async def test_a_roomier_image_stays_within_the_memory_limit(runtime: Runtime) -> None:
    """A handler whose limit leaves no room for a larger image keeps the one it has."""
    code = f"export default () => new Uint8Array(2 << 20).fill(1).length // {id(runtime)}"
    source = handler(code, name="grower", memory_limit_bytes=9 * MIB // 2)
    image = (await runtime.check(source)).image
    for _ in range(8):
        assert value(await runtime.execute_source(source, call())) == 2 << 20
    await until(lambda: len(runtime._background) == 1)
    assert (await runtime.check(source)).image is image
    assert sample(scrape(runtime.metrics), "nexus_images_regrown_total") == 0


async def test_a_failed_regrowth_reaches_no_call(runtime: Runtime) -> None:
    """A handler that only loads at times goes on with the image it has."""
    compiled = await runtime.check(fresh(name="moody"))
    compiled.plan.source = handler("export default 1", name="moody")
    for _ in range(3):
        await runtime.compiler.note_growth(compiled)
    assert sample(scrape(runtime.metrics), "nexus_images_regrown_total") == 0
