"""One wasm instance and the crossings into it, with a module made for the purpose."""

from collections.abc import Iterator
from typing import Any

import pytest
import wasmtime

from nexus_core.engine import bindings
from nexus_core.engine.bindings import EngineFault, GuestTrap, HostFault, TrapCode
from nexus_core.engine.guest import Guest, signatures
from nexus_core.engine.wasm_engine import WasmEngine

WASM_PAGE = 65536

MODULE = """
(module
  (import "test" "host" (func $host (param i32) (result i32)))
  (memory (export "memory") 2)
  (global $sp (export "__stack_pointer") (mut i32) (i32.const 1024))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "nothing"))
  (func $loop (export "loop") (loop (br 0)))
  (func (export "count") (param i32) (result i32) (local i32)
    (loop (local.set 1 (i32.add (local.get 1) (i32.const 1)))
          (br_if 0 (i32.lt_u (local.get 1) (local.get 0))))
    (local.get 1))
  (func (export "mark_and_loop") (i32.store (i32.const 16) (i32.const 77)) (loop (br 0)))
  (func (export "word") (result i32) (i32.load (i32.const 16)))
  (func (export "crash") (unreachable))
  (func (export "outside") (result i32) (i32.load (i32.const -8)))
  (func $dive (export "dive") (param i32) (result i32)
    (i32.add (i32.const 1) (call $dive (i32.add (local.get 0) (i32.const 1)))))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "host") (param i32) (result i32) (call $host (local.get 0)))
  (func (export "push") (global.set $sp (i32.sub (global.get $sp) (i32.const 64))))
)
"""


class Host:
    """What the module's import does; a test sets it."""

    def __init__(self) -> None:
        self.answer: Any = lambda _guest, value: value + 1

    def call(self, guest: Guest, values: Any) -> int:
        """The import."""
        return int(self.answer(guest, values[0]))


@pytest.fixture(scope="module")
def host() -> Host:
    """The import's behaviour."""
    return Host()


@pytest.fixture(scope="module")
def make(wasm_engine: WasmEngine, host: Host) -> Any:
    """Makes instances of the module."""
    wasm_engine.define("test", "host", 1, 1, host.call)
    module = wasmtime.Module(wasm_engine.engine, bytes(wasmtime.wat2wasm(MODULE)))
    pre = wasm_engine.linker.instantiate_pre(module)
    pointer, functions = bindings.address(pre.ptr()), signatures(module)

    def new() -> Guest:
        made = Guest(wasm_engine, functions, pointer)
        made.keeps = pre  # type: ignore[attr-defined]  # the instance needs its module's handle alive
        return made

    return new


@pytest.fixture
def guest(make: Any) -> Iterator[Guest]:
    """A fresh instance."""
    made = make()
    made.begin()
    yield made
    made.close()


def enter(guest: Guest, name: str, *arguments: int) -> tuple[int, int]:
    """Run an export to its end; its result and how often it yielded."""
    yields, steps = 0, guest.enter(guest.exports[name], *arguments)
    while True:
        try:
            next(steps)
            yields += 1
        except StopIteration as end:
            return end.value, yields


@pytest.mark.parametrize("pair", [(1, 2), (-5, 3), (0x7FFFFFFF, 1), (0, 0)])
def test_both_ways_in_give_the_same_result(guest: Guest, pair: tuple[int, int]) -> None:
    """A fiber and a plain call compute the same, as signed 32-bit numbers."""
    expected = (sum(pair) + 2**31) % 2**32 - 2**31
    guest.begin_short()
    assert guest.call(guest.exports["add"], *pair) == expected
    guest.begin()
    assert enter(guest, "add", *pair)[0] == expected


def test_a_function_without_a_result_gives_zero(guest: Guest) -> None:
    """An export that returns nothing can be entered like any other."""
    assert enter(guest, "nothing")[0] == 0


def test_a_long_run_yields_and_ends(guest: Guest) -> None:
    """Each epoch tick hands control back; the run goes on where it was."""
    result, yields = enter(guest, "count", 200_000_000)
    assert result == 200_000_000
    assert yields > 0


def test_closing_a_run_unwinds_it(guest: Guest) -> None:
    """A run closed at a tick ends there; its memory stays, and the next run works."""
    steps = guest.enter(guest.exports["mark_and_loop"])
    next(steps)
    steps.close()
    guest.begin()
    assert enter(guest, "word")[0] == 77
    for _ in range(1_000):
        guest.begin()
        assert enter(guest, "add", 2, 3)[0] == 5


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("crash", (), TrapCode.UNREACHABLE),
        ("outside", (), TrapCode.MEMORY_OUT_OF_BOUNDS),
        ("dive", (0,), TrapCode.STACK_OVERFLOW),
    ],
)
def test_a_trap_has_its_code(guest: Guest, name: str, arguments: tuple[int, ...], code: TrapCode) -> None:
    """Both ways in report a trap, and the instance can be entered again."""
    for _ in range(3):
        guest.begin()
        with pytest.raises(GuestTrap) as caught:
            enter(guest, name, *arguments)
        assert caught.value.code is code
        guest.begin_short()
        with pytest.raises(GuestTrap) as caught:
            guest.call(guest.exports[name], *arguments)
        assert caught.value.code is code
    assert guest.call(guest.exports["add"], 1, 1) == 2


def test_a_plain_call_never_outlives_its_ticks(guest: Guest, wasm_engine: WasmEngine) -> None:
    """A plain call that does not end fails at its deadline instead of hanging."""
    wasm_engine.ticker.hold()
    guest.resume_ticks()
    with pytest.raises(EngineFault):
        guest.call(guest.exports["loop"])
    wasm_engine.ticker.release()
    guest.begin_short()
    assert guest.call(guest.exports["add"], 1, 1) == 2


def test_memory_grows_to_its_limit_and_no_further(guest: Guest) -> None:
    """`memory.grow` fails inside the guest past the limit, and the host cannot pass it either."""
    guest.limit_memory(4 * WASM_PAGE)
    assert enter(guest, "grow", 2)[0] == 2
    assert enter(guest, "grow", 1)[0] == -1
    assert guest.memory_size == 4 * WASM_PAGE
    with pytest.raises(HostFault):
        guest.grow_memory(5 * WASM_PAGE)
    guest.limit_memory(6 * WASM_PAGE)
    guest.grow_memory(6 * WASM_PAGE)
    guest.grow_memory(WASM_PAGE)
    assert guest.memory_size == 6 * WASM_PAGE


def test_memory_stays_where_it_is_when_it_grows(guest: Guest) -> None:
    """Images are mapped over the memory's address, so growing must not move it."""
    before = guest.address
    guest.grow_memory(1_000 * WASM_PAGE)
    assert bindings.memory_data(guest._context, guest._memory_pointer) == before


@pytest.mark.parametrize(
    ("start", "length"), [(0, 2 * WASM_PAGE + 1), (2 * WASM_PAGE, 1), (-1, 1), (0, -1), (1 << 31, 1 << 31)]
)
def test_addresses_from_the_guest_are_checked(guest: Guest, start: int, length: int) -> None:
    """No address and no length a guest hands over reaches memory that is not its own."""
    with pytest.raises(GuestTrap, match="outside its memory"):
        guest.read(start, length)
    if length > 0:
        with pytest.raises(GuestTrap, match="outside its memory"):
            guest.write(start, b"x" * min(length, 3 * WASM_PAGE))


def test_the_last_byte_is_the_guests(guest: Guest) -> None:
    """Reading and writing reach to the last byte, and lengths of nothing are allowed anywhere inside."""
    guest.write(2 * WASM_PAGE - 3, b"end")
    assert guest.read(2 * WASM_PAGE - 3, 3) == b"end"
    assert guest.read(2 * WASM_PAGE, 0) == b""
    guest.write(2 * WASM_PAGE, b"")


def test_the_stack_pointer_can_be_put_back(guest: Guest) -> None:
    """An aborted run leaves it moved; the host reads and restores it."""
    enter(guest, "push")
    assert guest.stack_pointer == 960
    guest.set_stack_pointer(1024)
    assert guest.stack_pointer == 1024


def test_a_host_function_knows_its_guest(make: Any, host: Host) -> None:
    """The import finds the instance that called it, also when another was entered in between."""
    one, two = make(), make()
    seen: list[Guest] = []

    def answer(guest: Guest, value: int) -> int:
        seen.append(guest)
        return value * 2

    host.answer = answer
    for each in (one, two, one):
        each.begin()
        assert enter(each, "host", 21)[0] == 42
    assert seen == [one, two, one]
    one.close()
    two.close()


def test_a_host_function_may_call_back(guest: Guest, host: Host) -> None:
    """A plain call works inside a host function, also when ticks passed meanwhile."""

    def answer(guest: Guest, value: int) -> int:
        guest.begin_short()
        for _ in range(20_000):
            value = guest.call(guest.exports["add"], value, 1)
        guest.resume_ticks()
        return value

    host.answer = answer
    for _ in range(5):
        guest.begin()
        assert enter(guest, "host", 1)[0] == 20_001


@pytest.mark.parametrize("failure", [ValueError("mine"), KeyboardInterrupt(), GuestTrap("inner", None)])
def test_a_failure_of_the_host_comes_out_as_itself(guest: Guest, host: Host, failure: BaseException) -> None:
    """What a host function raises ends the run and is raised to who entered; the next run is unharmed."""

    def answer(_guest: Guest, _value: int) -> int:
        raise failure

    host.answer = answer
    with pytest.raises(type(failure)) as caught:
        enter(guest, "host", 1)
    assert caught.value is failure
    host.answer = lambda _guest, value: value
    guest.begin()
    assert enter(guest, "host", 9)[0] == 9


def test_a_host_function_outside_a_run_fails_closed(guest: Guest) -> None:
    """A plain call from nowhere has no guest to answer to."""
    guest.begin_short()
    with pytest.raises(EngineFault):
        guest.call(guest.exports["host"], 1)


def test_closing_twice_is_harmless(make: Any) -> None:
    """A guest may be closed by several owners."""
    made = make()
    made.close()
    made.close()


def test_a_module_without_a_stack_is_no_guest(wasm_engine: WasmEngine) -> None:
    """What cannot be pictured and reset is refused at once."""
    wasm = bytes(wasmtime.wat2wasm('(module (memory (export "memory") 1))'))
    module = wasmtime.Module(wasm_engine.engine, wasm)
    pre = wasm_engine.linker.instantiate_pre(module)
    with pytest.raises((HostFault, KeyError)):
        Guest(wasm_engine, signatures(module), bindings.address(pre.ptr()))
