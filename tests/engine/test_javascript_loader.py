"""Loading a handler into an image: what is in it, how large it is, and what ends the load."""

import pytest

from nexus_core.engine.driver import TimeBudget, finish
from nexus_core.engine.image import WASM_PAGE, HeapImage
from nexus_core.engine.javascript import IMAGE_SIZES, JavaScriptEngine
from nexus_core.engine.javascript_instance import JavaScriptInstance
from nexus_core.engine.javascript_kind import JavaScriptKind
from nexus_core.errors import CompilationError, HandlerTimeout, MemoryLimitExceeded
from nexus_core.limits import KIB, MIB
from tests.engine.guests import ALL, call_text, compile_text, guest_call, policy


def least_free(kind: JavaScriptKind, image: HeapImage) -> int:
    """Bytes a call can take before its memory grows, in steps of 64 KiB."""
    instance = kind.new_instance()
    instance.attach(image)
    taken = 0
    while True:
        call_text(instance, guest_call(event=taken + 64 * KIB))
        if instance.memory_used > image.memory_size:
            break
        taken += 64 * KIB
        assert instance.reset()
    instance.terminate()
    return taken


def test_an_image_has_room_for_ordinary_calls(kind: JavaScriptKind) -> None:
    """A call may take half a megabyte before memory grows, whatever the handler itself took."""
    for own in (0, 100_000, 3_000_000):
        text = f"export const own = new Uint8Array({own}); export default (n) => new Uint8Array(n).length;"
        image = compile_text(kind, text)
        assert image.memory_size in IMAGE_SIZES
        assert least_free(kind, image) >= 448 * KIB


def test_all_of_an_images_memory_is_the_allocators(
    kind: JavaScriptKind, instance: JavaScriptInstance
) -> None:
    """Room past the image continues the room inside it: no page between them is lost to the guest."""
    rules = policy(ALL, memory_limit_bytes=4 * MIB)
    image = compile_text(kind, "export default (n) => new Uint8Array(n).fill(1).length", rules)
    instance.attach(image)
    free = 4 * MIB - image.memory_size + 900 * KIB
    assert call_text(instance, guest_call(rules, free)) == free


def test_a_roomier_image_can_be_asked_for(kind: JavaScriptKind) -> None:
    """A handler that outgrew its image gets one of at least the asked size, which works the same."""
    text = "export default (n) => n + 1"
    steps = kind.compile("h.js", {"h.js": text}, policy(), IMAGE_SIZES[1])
    image = finish(steps, TimeBudget(20_000, 0))
    assert image.memory_size == IMAGE_SIZES[1]
    instance = kind.new_instance()
    instance.attach(image)
    assert call_text(instance, guest_call(event=1)) == 2
    instance.terminate()


@pytest.mark.parametrize("limit", [4 * MIB, 7 * MIB + 1, 11 * MIB + WASM_PAGE - 1])
def test_an_image_is_never_larger_than_its_limit(kind: JavaScriptKind, limit: int) -> None:
    """Between the few sizes an image may be as large as the limit itself, in whole pages."""
    own = limit - 3 * MIB
    text = f"export const own = new Uint8Array({own}).fill(1); export default () => own.length;"
    image = compile_text(kind, text, policy(ALL, memory_limit_bytes=limit))
    assert image.memory_size <= limit
    assert image.memory_size % WASM_PAGE == 0
    instance = kind.new_instance()
    instance.attach(image)
    assert call_text(instance, guest_call(policy(ALL, memory_limit_bytes=limit))) == own
    instance.terminate()


def test_a_handler_one_page_too_large_is_refused(kind: JavaScriptKind) -> None:
    """A handler that leaves no room for its calls under its limit is refused by that limit."""
    rules = policy(ALL, memory_limit_bytes=4 * MIB)
    with pytest.raises(MemoryLimitExceeded) as caught:
        compile_text(kind, "export const a = new Uint8Array(2500000); export default () => 1", rules)
    assert caught.value.breach is not None
    assert caught.value.breach[:2] == ("memory_limit_bytes", 4 * MIB)
    assert caught.value.breach.used > 4 * MIB


def test_one_handlers_load_leaves_the_base_alone(kind: JavaScriptKind, javascript: JavaScriptEngine) -> None:
    """Whatever modules do to the world they are loaded in, the next handler starts from a clean base."""
    before = javascript.base.contents()
    compile_text(kind, "globalThis.mark = 1; Object.prototype.bad = 1; export default () => 1;")
    assert javascript.base.contents() == before
    instance = kind.new_instance()
    instance.attach(compile_text(kind, "export default () => [typeof mark, typeof ({}).bad];"))
    assert call_text(instance) == ["undefined", "undefined"]
    instance.terminate()


def test_the_policy_is_part_of_the_image(kind: JavaScriptKind) -> None:
    """An image knows under which policy it was made, so that a call under it need not tell it again."""
    rules = policy(name="mine")
    assert compile_text(kind, "export default () => 1", rules).handles["policy"] == rules.digest


def test_a_load_is_held_to_its_time(kind: JavaScriptKind) -> None:
    """A load that is given up closes its guest, and the next load works."""
    steps = kind.compile("h.js", {"h.js": "export const a = 1; for (;;);"}, policy())
    with pytest.raises(HandlerTimeout):
        finish(steps, TimeBudget(30, 0))
    compile_text(kind, "export default () => 1")


def test_a_load_may_be_dropped_before_it_began(kind: JavaScriptKind) -> None:
    """A compile nobody drives costs nothing and harms nobody."""
    kind.compile("h.js", {"h.js": "export default () => 1"}, policy()).close()


@pytest.mark.parametrize("name", ['a"b.js', "a'b.js", "a\\b.js", "ä.js", "a b.js", "$(x).js"])
def test_any_file_name_is_only_a_name(kind: JavaScriptKind, name: str) -> None:
    """A file's name is never read as code."""
    files = {name: "export default () => 1"}
    instance = kind.new_instance()
    instance.attach(finish(kind.compile(name, files, policy()), TimeBudget(20_000, 0)))
    assert call_text(instance) == 1
    instance.terminate()


def test_errors_point_into_the_authors_file(kind: JavaScriptKind) -> None:
    """A module that throws, throws late, or does not parse: each has its line and column."""
    for text, line, column in (
        ("export default () => 1;\nnull.x;", 2, 6),
        ("export default () => 1;\nawait null;\n  null.x;", 3, 8),
        ("export default () => 1;\nconst x = ;", 2, 11),
    ):
        with pytest.raises(CompilationError) as caught:
            compile_text(kind, text)
        assert caught.value.location is not None
        assert (caught.value.location.file, caught.value.location.line) == ("h.js", line)
        assert abs(caught.value.location.column - column) <= 1
        assert caught.value.snippet
