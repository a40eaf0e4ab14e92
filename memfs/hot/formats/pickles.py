"""Pickles: plain values, and what the caller makes of the names that a pickle asks for.

Invariant: a pickle changes only what it made itself, calls only a `Maker`, and takes memory by the
number of its operations, which is limited.

Python's own unpickler is not bounded by what `find_class` allows: its BUILD writes into the allowed
objects themselves, a key that is a deep tuple overflows the stack of C, and one operation of six
bytes makes it take 32 GiB (LONG_BINPUT).

Source: pickletools of Python 3.11; torch/_weights_only_unpickler.py of torch 2.13, a machine of the
same kind.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

OPERATION_COUNT_MAX = 1 << 22
"""torch.save takes 32 a tensor (counted, torch 2.13), so 130,000 tensors. As
many lists take 0.3 GiB (measured for twice as many)."""

_PROTOCOL_MAX = 5


class RefusedError(Exception):
    """What a pickle asks for that is not taken; its reader names the file."""


@dataclass(frozen=True, slots=True)
class Maker:
    """What a pickle may call."""

    make: Callable[..., object]


def load_pickle(
    data: bytes,
    find: Callable[[str, str], object],
    load: Callable[[object], object],
    operation_count_max: int = OPERATION_COUNT_MAX,
) -> object:
    """Return what a pickle holds.

    Args:
        data: The pickle.
        find: Returns what stands for a global of this module and name; raises `RefusedError`.
        load: Returns what stands for a persistent id, which is any value; raises `RefusedError`.
        operation_count_max: Operations that one pickle may have.

    Raises:
        RefusedError: It asks for something else.
        ValueError: It is cut off, or no pickle.
    """
    machine = _Machine(data, find, load)
    try:
        return machine.run(operation_count_max)
    # An empty stack, an empty memo, arguments that a maker does not have.
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError(str(error)[:100]) from None


class _Machine:
    def __init__(
        self,
        data: bytes,
        find: Callable[[str, str], object],
        load: Callable[[object], object],
    ) -> None:
        self._data = data
        self._position = 0
        self._find = find
        self._load = load
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def run(self, operation_count_max: int) -> object:
        """Return what is on the stack at the STOP."""
        data, operations = self._data, _OPERATIONS
        for _ in range(operation_count_max):
            code = data[self._position]
            self._position += 1
            if code == _STOP:
                return self._stack.pop()
            operation = operations.get(code)
            if operation is None:
                raise RefusedError(f"the operation {bytes([code])!r}")
            operation(self)
        raise RefusedError(f"more than {operation_count_max} operations")

    # --- what is behind an operation -------------------------------------------------------------
    def _take(self, size: int) -> bytes:
        begin, end = self._position, self._position + size
        if end > len(self._data):
            raise ValueError("cut off")
        self._position = end
        return self._data[begin:end]

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _line(self) -> str:
        end = self._data.index(b"\n", self._position)
        line = self._take(end - self._position)
        self._position += 1
        return line.decode()

    def _items(self) -> list[object]:
        """Take what lies above the last mark."""
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    # --- operations ------------------------------------------------------------------------------
    def protocol(self) -> None:
        if self._take(1)[0] > _PROTOCOL_MAX:
            raise RefusedError("a protocol that is not known")

    def frame(self) -> None:
        self._take(8)

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def tuple(self) -> None:
        self._stack.append(tuple(self._items()))

    def append(self) -> None:
        self._extend([self._stack.pop()])

    def appends(self) -> None:
        self._extend(self._items())

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise RefusedError("a list that is none")
        target.extend(items)

    def set_item(self) -> None:
        value = self._stack.pop()
        self._update([self._stack.pop(), value])

    def set_items(self) -> None:
        self._update(self._items())

    def _update(self, items: list[object]) -> None:
        target = self._stack[-1]
        if type(target) is not dict:
            raise RefusedError("a mapping that is none")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing nothing else: a tuple is hashed by recursion in C, as deep as it likes to be.
            if type(key) not in (str, int, bool):
                raise RefusedError("a mapping with keys that are no names")
            target[key] = value

    def build(self) -> None:
        """Forget a state: `_metadata` of a module's state_dict."""
        self._stack.pop()
        if type(self._stack[-1]) is not dict:
            raise RefusedError("a state of what has none")

    def reduce(self) -> None:
        arguments, maker = self._stack.pop(), self._stack.pop()
        if type(maker) is not Maker or type(arguments) is not tuple:
            raise RefusedError("a call of what cannot be called")
        self._stack.append(maker.make(*arguments))

    def find_line(self) -> None:
        module = self._line()
        self._stack.append(self._find(module, self._line()))

    def find_stacked(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if type(name) is not str or type(module) is not str:
            raise RefusedError("a global without a name")
        self._stack.append(self._find(module, name))

    def persistent(self) -> None:
        self._stack.append(self._load(self._stack.pop()))

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]


def _get(size: int) -> Callable[[_Machine], None]:
    return lambda m: m._stack.append(m._memo[m._number(size)])


def _put(size: int) -> Callable[[_Machine], None]:
    def put(m: _Machine) -> None:
        m._memo[m._number(size)] = m._stack[-1]

    return put


def _push(make: Callable[[_Machine], object]) -> Callable[[_Machine], None]:
    return lambda m: m._stack.append(make(m))


def _short_tuple(size: int) -> Callable[[_Machine], None]:
    def gather(m: _Machine) -> None:
        m._stack.append(tuple([m._stack.pop() for _ in range(size)][::-1]))

    return gather


_STOP = ord(".")

_OPERATIONS: dict[int, Callable[[_Machine], None]] = {
    0x80: _Machine.protocol,
    0x95: _Machine.frame,
    ord("("): _Machine.mark,
    ord("N"): _push(lambda _: None),
    0x88: _push(lambda _: True),
    0x89: _push(lambda _: False),
    ord("K"): _push(lambda m: m._number(1)),
    ord("M"): _push(lambda m: m._number(2)),
    ord("J"): _push(lambda m: int.from_bytes(m._take(4), "little", signed=True)),
    # At most 255 bytes: an int of more than 4300 digits cannot even be told of.
    0x8A: _push(lambda m: int.from_bytes(m._take(m._number(1)), "little", signed=True)),
    ord("G"): _push(lambda m: struct.unpack(">d", m._take(8))[0]),
    ord("X"): _push(lambda m: m._take(m._number(4)).decode()),
    0x8C: _push(lambda m: m._take(m._number(1)).decode()),
    ord("B"): _push(lambda m: m._take(m._number(4))),
    ord("C"): _push(lambda m: m._take(m._number(1))),
    ord("]"): _push(lambda _: []),
    ord("}"): _push(lambda _: {}),
    ord(")"): _push(lambda _: ()),
    ord("t"): _Machine.tuple,
    0x85: _short_tuple(1),
    0x86: _short_tuple(2),
    0x87: _short_tuple(3),
    ord("a"): _Machine.append,
    ord("e"): _Machine.appends,
    ord("s"): _Machine.set_item,
    ord("u"): _Machine.set_items,
    ord("b"): _Machine.build,
    ord("R"): _Machine.reduce,
    ord("c"): _Machine.find_line,
    0x93: _Machine.find_stacked,
    ord("Q"): _Machine.persistent,
    ord("h"): _get(1),
    ord("j"): _get(4),
    ord("q"): _put(1),
    ord("r"): _put(4),
    0x94: _Machine.memoize,
}
"""Those that protocols 2 to 5 write for plain values; sets, long numbers and instances are not
plain."""
