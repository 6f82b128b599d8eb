"""Reads the opcodes of a pickle into plain data. Nothing is imported or called but what the caller's table holds.

Python's own unpickler looks names up by importing their modules; this one only ever looks into a table, so a name that
is not there ends the reading. Claimed sizes are compared with the bytes that are there before memory is taken.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

_MAX_STEPS = 2_000_000  # a network of 1024 x 1024 pixels takes about 60,000
_MAX_NAME = 1000
_MAX_INTEGER = 255  # bytes
_HIGHEST_PROTOCOL = 5


class Refused(Exception):
    """The pickle holds something that it should not, or is damaged; the message is the end of a sentence."""


@runtime_checkable
class Buildable(Protocol):
    """A value that may receive a state (opcode BUILD); all others may not."""

    def build(self, state: Any) -> None: ...


@dataclass(frozen=True)
class Maker:
    """What a name in a pickle may stand for: a function of ours that makes plain data of the arguments."""

    make: Callable[..., Any]


class Budget:
    """Bounds the bytes that a pickle may have made: remembered bytes can be asked for again and again."""

    def __init__(self, total: int) -> None:
        self.left = total

    def spend(self, count: int) -> None:
        """Counts `count` bytes; raises `Refused` when they are more than the file can need."""
        self.left -= count
        if self.left < 0:
            raise Refused("it asks for far more memory than its own size")


class PickleMachine:
    """Reads one pickle after another from `data`; afterwards `position` is behind the last.

    Args:
        data: the bytes.
        names: (module, name) -> a `Maker`, or a mere marker that can only be passed on.
        budget: of bytes made.
        persistent: makes data of a persistent id; None refuses such.
    """

    def __init__(
        self,
        data: memoryview,
        names: Mapping[tuple[str, str], Any],
        budget: Budget,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.data, self.names, self.budget, self.persistent = data, names, budget, persistent
        self.position = self.steps = 0

    def load(self) -> Any:
        """The value of the next pickle.

        Raises:
            Refused: something other than plain data, or damage.
        """
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        try:
            while (code := self.take(1)[0]) != _STOP:
                self.steps += 1
                if self.steps > _MAX_STEPS:
                    raise Refused(f"it takes more than {_MAX_STEPS} steps, far more than any network")
                self._operation(code)(self)
            return self.stack.pop()
        except _DAMAGE as error:
            kind = type(error).__name__
            raise Refused(f"it is damaged at byte {self.position} ({kind}); download or copy it again") from error

    def _operation(self, code: int) -> Callable[[PickleMachine], None]:
        if code not in _OPERATIONS:
            name = _CODE_NAMES.get(code, f"0x{code:02x}")
            raise Refused(f"it uses the pickle opcode {name}, which networks do not need")
        return _OPERATIONS[code]

    def take(self, count: int) -> memoryview:
        """The next `count` bytes; raises `Refused` where fewer are left."""
        left = len(self.data) - self.position
        if count > left:
            raise Refused(f"it claims {count} bytes where {left} are left; it is truncated or made to exhaust memory")
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, form: str) -> Any:
        """The next number, in `struct`'s notation."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def _line(self) -> str:
        start = self.position
        while self.take(1)[0] != 10:
            if self.position - start > _MAX_NAME:
                raise Refused("it holds a name of more than 1000 letters")
        return bytes(self.data[start : self.position - 1]).decode("utf-8")

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _to_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def _find(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Refused("it names something by what is not text")
        if (module, name) not in self.names:
            raise Refused(f"it refers to {shown(f'{module}.{name}')}, which is neither a tensor nor a plain container")
        self.stack.append(self.names[module, name])

    def _call(self) -> None:
        args, maker = self.stack.pop(), self.stack.pop()
        if not isinstance(maker, Maker) or not isinstance(args, tuple):
            raise Refused("it calls something that is not to be called")
        self.stack.append(maker.make(*args))

    def _build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Buildable):
            raise Refused("it gives a state to a plain container")
        self.stack[-1].build(state)

    def _persistent_id(self) -> None:
        if self.persistent is None:
            raise Refused("it refers to data outside itself (a persistent id)")
        self.stack.append(self.persistent(self.stack.pop()))

    def _integer(self, size: int) -> None:
        if size > _MAX_INTEGER:
            raise Refused(f"it holds an integer of {size} bytes")
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def _text(self, size: int) -> None:
        self.stack.append(bytes(self.take(size)).decode("utf-8", "surrogatepass"))

    def _bytes(self, size: int) -> None:
        self.budget.spend(size)
        self.stack.append(bytes(self.take(size)))

    def _fill(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or len(items) % 2:
            raise Refused("it puts items into what is no dictionary")
        self.stack[-1].update(zip(map(key, items[::2]), items[1::2], strict=True))

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Refused("it appends to what is no list")
        self.stack[-1].extend(items)

    def _add(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not set:
            raise Refused("it adds to what is no set")
        self.stack[-1].update(map(key, items))

    def _tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise IndexError
        items = tuple(self.stack[-size:])
        del self.stack[-size:]
        self.stack.append(items)

    def _mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._to_mark()


def key(value: Any) -> str | int:
    """A key of a dictionary or set: text or a number, so that hashing is quick and runs nothing."""
    if not isinstance(value, (str, int)):
        raise Refused("it holds a key that is neither text nor a number")
    return value


def shown(text: str) -> str:
    """Text of a stranger's, fit for one line of a message."""
    return ascii(text)[1:-1][:120]


_STOP = ord(".")
_DAMAGE = (
    LookupError,
    struct.error,
    UnicodeError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    MemoryError,
    RuntimeError,
)
_CODE_NAMES = {ord(op.code): op.name for op in pickletools.opcodes}
_Machine = PickleMachine


def _protocol(m: _Machine) -> None:
    if (version := m.take(1)[0]) > _HIGHEST_PROTOCOL:
        raise Refused(f"it is of pickle protocol {version}, newer than any known")


def _pushes(value: Callable[[], Any]) -> Callable[[_Machine], None]:
    return lambda m: m._push(value())


def _memorise(m: _Machine, index: int) -> None:
    m.memo[index] = m.stack[-1]


def _into_list(m: _Machine) -> None:
    value = m.stack.pop()
    m._extend([value])


def _into_dict(m: _Machine) -> None:
    value, name = m.stack.pop(), m.stack.pop()
    m._fill([name, value])


def _dict_of(m: _Machine) -> None:
    items = m._to_mark()
    m._push({})
    m._fill(items)


def _stack_global(m: _Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    m._find(module, name)


# What protocols 2 to 5 use for data. Absent on purpose: INST, OBJ and NEWOBJ_EX (calls), EXT1 to EXT4 (names by
# number), PERSID and out-of-band buffers (data from elsewhere), and the text forms of protocols 0 and 1.
_BY_NAME: dict[str, Callable[[_Machine], None]] = {
    "PROTO": _protocol,
    "FRAME": lambda m: (m.number("<Q"), None)[1],
    "NONE": _pushes(lambda: None),
    "NEWTRUE": _pushes(lambda: True),
    "NEWFALSE": _pushes(lambda: False),
    "BININT": lambda m: m._push(m.number("<i")),
    "BININT1": lambda m: m._push(m.number("<B")),
    "BININT2": lambda m: m._push(m.number("<H")),
    "LONG1": lambda m: m._integer(m.number("<B")),
    "LONG4": lambda m: m._integer(m.number("<I")),
    "BINFLOAT": lambda m: m._push(m.number(">d")),
    "SHORT_BINUNICODE": lambda m: m._text(m.number("<B")),
    "BINUNICODE": lambda m: m._text(m.number("<I")),
    "BINUNICODE8": lambda m: m._text(m.number("<Q")),
    "SHORT_BINBYTES": lambda m: m._bytes(m.number("<B")),
    "BINBYTES": lambda m: m._bytes(m.number("<I")),
    "BINBYTES8": lambda m: m._bytes(m.number("<Q")),
    "BYTEARRAY8": lambda m: m._bytes(m.number("<Q")),
    "EMPTY_LIST": _pushes(list),
    "EMPTY_DICT": _pushes(dict),
    "EMPTY_SET": _pushes(set),
    "EMPTY_TUPLE": _pushes(tuple),
    "LIST": lambda m: m._push(m._to_mark()),
    "TUPLE": lambda m: m._push(tuple(m._to_mark())),
    "DICT": _dict_of,
    "FROZENSET": lambda m: m._push(frozenset(map(key, m._to_mark()))),
    "TUPLE1": lambda m: m._tuple(1),
    "TUPLE2": lambda m: m._tuple(2),
    "TUPLE3": lambda m: m._tuple(3),
    "APPEND": _into_list,
    "APPENDS": lambda m: m._extend(m._to_mark()),
    "SETITEM": _into_dict,
    "SETITEMS": lambda m: m._fill(m._to_mark()),
    "ADDITEMS": lambda m: m._add(m._to_mark()),
    "MARK": _Machine._mark,
    "POP": _Machine._pop,
    "POP_MARK": lambda m: (m._to_mark(), None)[1],
    "DUP": lambda m: m._push(m.stack[-1]),
    "BINPUT": lambda m: _memorise(m, m.number("<B")),
    "LONG_BINPUT": lambda m: _memorise(m, m.number("<I")),
    "MEMOIZE": lambda m: _memorise(m, len(m.memo)),
    "BINGET": lambda m: m._push(m.memo[m.number("<B")]),
    "LONG_BINGET": lambda m: m._push(m.memo[m.number("<I")]),
    "GLOBAL": lambda m: m._find(m._line(), m._line()),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _Machine._call,
    "NEWOBJ": _Machine._call,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent_id,
}
_OPERATIONS = {code: _BY_NAME[name] for code, name in _CODE_NAMES.items() if name in _BY_NAME}
