"""The crossings into wasmtime's C API: errors and values arrive as ours."""

import ctypes

import pytest
import wasmtime

from nexus_core.engine import bindings
from nexus_core.engine.bindings import EngineFault, GuestTrap, HostFault


def test_both_families_of_errors_have_one_base() -> None:
    """wasmtime's traps and errors share no base; ours do."""
    assert issubclass(GuestTrap, EngineFault)
    assert issubclass(HostFault, EngineFault)
    assert not issubclass(EngineFault, wasmtime.WasmtimeError)


def test_a_trap_is_taken_over_with_its_message() -> None:
    """A trap's text is read and its handle is owned by us from then on."""
    message = b"told by the host"
    pointer = bindings.trap_new(message, ctypes.c_size_t(len(message)))
    error = bindings.trap_error(pointer)
    assert "told by the host" in error.message
    assert error.code is None


def test_every_function_is_there() -> None:
    """Each bound name exists in the library we are linked with."""
    bound = [value for value in vars(bindings).values() if hasattr(value, "restype")]
    assert len(bound) >= 15
    assert all(callable(function) for function in bound)


def test_values_are_prepared_as_integers() -> None:
    """Each value's kind is set once; its word can be written and read back."""
    values = bindings.Values(3)
    for index in range(3):
        place = bindings.VALUE_I32_WORD + index * bindings.VALUE_WORDS
        values.words[place] = -index
        assert values.words[place] == -index
        kind = ctypes.cast(values.pointer.value + index * 32, ctypes.POINTER(ctypes.c_uint8))[0]  # type: ignore[operator]
        assert kind == bindings.I32


@pytest.mark.parametrize("text", ["", "env", "ünï"])
def test_names_are_passed_by_pointer_and_length(text: str) -> None:
    """A name's length counts its UTF-8 bytes."""
    pointer, length = bindings.text_argument(text)
    assert pointer.value == text.encode()
    assert length.value == len(text.encode())
