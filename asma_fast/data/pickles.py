"""Pickled files of other toolboxes, read without running anything.

The unpickler of the standard library calls what a file tells it to call. This one calls nothing: it knows the few
names by which Python and NumPy write plain values and arrays, builds these itself, and refuses a file at the first
other name. Arrays are views of the mapped file, so that a file takes little more memory than its structure needs.
"""

from __future__ import annotations

import codecs
import math
import mmap
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.errors import FormatError

PLAIN_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,5}")
_KEYS = (str, int, float, bool, bytes, type(None))
_LONGEST_INTEGER = 16  # bytes
_GZIP = b"\x1f\x8b"


def load_pickle(path: Path) -> Any:
    """The value in a pickled file.

    Admitted are numbers, strings, bytes, lists, tuples, dicts and sets (keyed by numbers and strings), and NumPy's
    arrays and scalars of numbers and strings, of all pickle protocols, from Python 2 (its strings taken for Latin-1)
    and 3. Whatever is read, memory stays within a constant times the file's size.

    Returns
    -------
    object
        Plain values; arrays are read-only views of the file, and so are long bytes (as ``memoryview``).

    Raises
    ------
    FormatError
        If the file is no pickle, is truncated or damaged, or names anything but the above; says what it names.
    OSError
        If it cannot be opened.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if not size:
            raise FormatError(path, "a pickle", "an empty file")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if content[:2] == _GZIP:
        raise FormatError(path, "a pickle", "data compressed by gzip; decompress it first")
    return _Machine(path, content).run()


@dataclass(frozen=True)
class _Named:
    """A name that a file gives, such as ``numpy.ndarray``; never looked up."""

    name: str


@dataclass
class _Unbuilt:
    """An array or dtype whose state is still to come; ``value`` once it came."""

    dtype: np.dtype[Any] | None
    value: Any = None


class _Stop(Exception):
    pass


class _Machine:
    """Pickle's stack machine, for plain values and arrays."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path = path
        self.content = content
        self.view = memoryview(content)
        self.at = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.budget = len(content)

    def run(self) -> Any:
        operations, begin = self.operations, 0
        try:
            while True:
                begin = self.at
                code = self.view[begin] if begin < len(self.view) else self.truncated()
                self.at = begin + 1
                operation = operations.get(code)
                if operation is None:
                    self.fail("a pickle of plain values and arrays", f"operation {code:#04x} at byte {begin}")
                operation(self)
        except _Stop:
            (value,) = self.stack
            return value
        except FormatError:
            raise
        except (ValueError, TypeError, LookupError, ArithmeticError, struct.error, MemoryError) as error:
            self.fail("a sound pickle", f"at byte {begin}: {type(error).__name__}: {str(error)[:100]}")

    def fail(self, expected: str, found: str) -> NoReturn:
        raise FormatError(self.path, expected, found)

    def truncated(self) -> NoReturn:
        self.fail("a whole pickle", f"the end of the file after {len(self.view)} bytes")

    def check(self, holds: bool, expected: str, found: object) -> None:
        if not holds:
            self.fail(expected, shown(found))

    def spend(self, amount: int) -> None:
        """Counts what is copied from values read before: a sound file copies nothing twice."""
        self.budget -= amount
        self.check(self.budget >= 0, "a pickle that copies its values once", "one that multiplies them")

    # Reading.

    def take(self, size: int) -> memoryview:
        begin, self.at = self.at, self.at + size
        if size < 0 or self.at > len(self.view):
            self.truncated()
        return self.view[begin : self.at]

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> bytes:
        end = self.content.find(b"\n", self.at)
        if end < 0:
            self.truncated()
        text = bytes(self.take(end - self.at))
        self.at = end + 1
        return text

    # The stack.

    def pushes(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def tuple_of(self, count: int) -> None:
        self.check(len(self.stack) >= count, f"{count} values for a tuple", len(self.stack))
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def put(self, index: int) -> None:
        self.check(index >= 0, "a memo index", index)
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        value = self.memo[index]
        self.pushes(value.value if isinstance(value, _Unbuilt) and value.value is not None else value)

    # Values.

    def integer(self, size: int) -> None:
        self.check(0 <= size <= _LONGEST_INTEGER, f"an integer of at most {_LONGEST_INTEGER} bytes", size)
        self.pushes(int.from_bytes(self.take(size), "little", signed=True))

    def integer_text(self) -> None:
        text = self.line().removesuffix(b"L")
        if text in (b"00", b"01"):
            self.pushes(text == b"01")
            return
        self.check(len(text) <= 40, "an integer", text)
        self.pushes(int(text))

    def text(self, size: int) -> None:
        self.pushes(str(self.take(size), "utf-8", "surrogatepass"))

    def old_text(self, size: int) -> None:
        self.pushes(str(self.take(size), "latin-1"))

    def quoted(self) -> None:
        text = self.line().strip()
        self.check(len(text) >= 2 and text[:1] == text[-1:] and text[:1] in b"'\"", "a quoted string", text)
        raw: bytes = codecs.escape_decode(text[1:-1])[0]
        self.pushes(raw.decode("latin-1"))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            self.fail("a list to append to", shown(target))
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target, keys = self.stack[-1], items[::2]
        self.check(type(target) is dict and len(items) % 2 == 0, "a dict and pairs", target)
        self.plain_keys(keys)
        target.update(zip(keys, items[1::2], strict=True))

    def a_dict(self) -> None:
        items = self.pop_mark()
        self.pushes({})
        self.set_items(items)

    def plain_keys(self, keys: list[Any]) -> None:
        # No tuples: the hash of a deeply nested one would overflow the stack.
        for key in keys:
            if type(key) not in _KEYS:
                self.fail("keys that are numbers or strings", shown(key))

    def add_items(self) -> None:
        items = self.pop_mark()
        self.check(type(self.stack[-1]) is set, "a set", self.stack[-1])
        self.plain_keys(items)
        self.stack[-1].update(items)

    def a_set(self, kind: type, items: Any) -> Any:
        self.check(type(items) in (list, tuple, set), "the members of a set", items)
        self.spend(len(items))
        self.plain_keys(list(items))
        return kind(items)

    # What the library would look up and call.

    def named(self, module: Any, name: Any) -> None:
        self.check(isinstance(module, str) and isinstance(name, str), "a name", f"{module!r}.{name!r}")
        full = f"{_MODULES.get(module, module)}.{name}"
        if full not in self.makers and full != "numpy.ndarray":
            self.refuse(full)
        self.pushes(_Named(full))

    def refuse(self, name: str) -> NoReturn:
        self.fail("a pickle of plain values and NumPy arrays only", f"the global {shown(name)[1:-1]}; nothing was run")

    def named_on_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.named(module, name)

    def instance(self) -> None:
        module, name = self.line().decode("utf-8"), self.line().decode("utf-8")
        self.refuse(f"{module}.{name}")

    def persistent(self) -> None:
        self.fail("a pickle of plain values and NumPy arrays only", "a persistent id; nothing was run")

    def reduce(self) -> None:
        arguments, callee = self.stack.pop(), self.stack.pop()
        if not isinstance(callee, _Named) or callee.name not in self.makers or type(arguments) is not tuple:
            self.fail("a call that makes an array", f"{shown(callee)} with {shown(arguments)}; nothing was run")
        try:
            self.pushes(self.makers[callee.name](self, *arguments))
        except (TypeError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            self.fail(f"arguments of {callee.name} as NumPy and Python write them", shown(arguments))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, _Unbuilt) or type(state) is not tuple or target.value is not None:
            self.fail("the state of an array", f"{shown(state)} for {shown(target)}; nothing was run")
        if target.dtype is None:
            shape, dtype, fortran, data = state[-4:] if len(state) in (4, 5) else self.fail("an array", shown(state))
            target.value = self.an_array(data, dtype, shape, "F" if fortran else "C")
        else:
            order = state[1] if len(state) == 8 else None
            if order not in _ORDERS or any(field is not None for field in state[2:5]):
                self.fail("a dtype of numbers or strings", shown(state))
            target.value = target.dtype.newbyteorder(_ORDERS[order])
        self.stack[-1] = target.value

    def reconstruct(self, kind: Any, shape: Any, code: Any) -> _Unbuilt:
        self.check(kind == _Named("numpy.ndarray"), "the reconstruction of numpy.ndarray", kind)
        return _Unbuilt(None)

    def a_dtype(self, text: Any, align: Any = False, copy: Any = True) -> _Unbuilt:
        plain = isinstance(text, str) and PLAIN_DTYPE.fullmatch(text)
        self.check(bool(plain), "arrays of numbers or strings", f"dtype {text}" if isinstance(text, str) else text)
        return _Unbuilt(np.dtype(text))

    def an_array(self, data: Any, dtype: Any, shape: Any, order: Any = "C") -> NDArray[Any]:
        shape = (shape,) if type(shape) is int else shape
        sound = isinstance(dtype, np.dtype) and type(shape) is tuple and len(shape) <= 32 and order in ("C", "F")
        self.check(
            sound and all(type(n) is int and n >= 0 for n in shape), "the shape and dtype of an array", (shape, dtype)
        )
        data = self.a_bytes(data, "latin1") if isinstance(data, str) else data
        self.check(isinstance(data, (bytes, bytearray, memoryview)), "the bytes of an array", data)
        wanted = math.prod(shape) * dtype.itemsize
        self.check(len(data) == wanted, f"{wanted} bytes for an array of shape {shape}", f"{len(data)} bytes")
        array: NDArray[Any] = np.ndarray(shape, dtype, data, order=order)
        array.setflags(write=False)
        return array

    def a_scalar(self, dtype: Any, data: Any) -> Any:
        return self.an_array(data, dtype, ())[()]

    def a_bytes(self, text: Any = "", encoding: Any = "latin1") -> bytes:
        known = isinstance(text, str) and encoding in ("latin1", "latin-1")
        self.check(known, "bytes written as Latin-1 text", (text, encoding))
        self.spend(len(text))
        return str(text).encode("latin-1")

    def a_bytearray(self, content: Any = b"", encoding: Any = "latin1") -> bytes | memoryview:
        if isinstance(content, (bytes, memoryview)):
            return content
        return self.a_bytes(content, encoding)

    def a_complex(self, real: Any, imaginary: Any) -> complex:
        self.check(type(real) is float and type(imaginary) is float, "two floats", (real, imaginary))
        return complex(real, imaginary)

    def stop(self) -> None:
        unfinished = not self.stack or isinstance(self.stack[-1], (_Named, _Unbuilt))
        self.check(len(self.stack) == 1 and not self.below and not unfinished, "one whole value", self.stack)
        raise _Stop

    def protocol(self) -> None:
        version = self.number("<B")
        self.check(version <= 5, "a pickle of protocol 5 at most", version)

    makers: ClassVar[dict[str, Callable[..., Any]]] = {
        "numpy.core.multiarray._reconstruct": reconstruct,
        "numpy.core.multiarray.scalar": a_scalar,
        "numpy.core.numeric._frombuffer": an_array,
        "numpy.dtype": a_dtype,
        "_codecs.encode": a_bytes,
        "builtins.bytes": a_bytes,
        "builtins.bytearray": a_bytearray,
        "builtins.complex": a_complex,
        "builtins.set": lambda self, items=(): self.a_set(set, items),
        "builtins.frozenset": lambda self, items=(): self.a_set(frozenset, items),
    }
    operations: ClassVar[dict[int, Callable[[_Machine], None]]] = {
        ord(code): operation
        for code, operation in {
            "\x80": protocol,
            "\x95": lambda self: self.take(8) and None,
            ".": stop,
            "(": mark,
            "0": pop,
            "1": lambda self: self.pop_mark() and None,
            "2": lambda self: self.pushes(self.stack[-1]),
            "N": lambda self: self.pushes(None),
            "\x88": lambda self: self.pushes(True),
            "\x89": lambda self: self.pushes(False),
            "I": integer_text,
            "L": integer_text,
            "J": lambda self: self.integer(4),
            "K": lambda self: self.pushes(self.number("<B")),
            "M": lambda self: self.pushes(self.number("<H")),
            "\x8a": lambda self: self.integer(self.number("<B")),
            "\x8b": lambda self: self.integer(self.number("<i")),
            "F": lambda self: self.pushes(float(self.line())),
            "G": lambda self: self.pushes(self.number(">d")),
            "S": quoted,
            "U": lambda self: self.old_text(self.number("<B")),
            "T": lambda self: self.old_text(self.number("<i")),
            "V": lambda self: self.pushes(self.line().decode("raw-unicode-escape")),
            "X": lambda self: self.text(self.number("<I")),
            "\x8c": lambda self: self.text(self.number("<B")),
            "\x8d": lambda self: self.text(self.number("<Q")),
            "C": lambda self: self.pushes(bytes(self.take(self.number("<B")))),
            "B": lambda self: self.pushes(self.take(self.number("<I"))),
            "\x8e": lambda self: self.pushes(self.take(self.number("<Q"))),
            "\x96": lambda self: self.pushes(self.take(self.number("<Q"))),
            "]": lambda self: self.pushes([]),
            "l": lambda self: self.pushes(self.pop_mark()),
            "a": lambda self: self.append([self.stack.pop()]),
            "e": lambda self: self.append(self.pop_mark()),
            ")": lambda self: self.pushes(()),
            "t": lambda self: self.pushes(tuple(self.pop_mark())),
            "\x85": lambda self: self.tuple_of(1),
            "\x86": lambda self: self.tuple_of(2),
            "\x87": lambda self: self.tuple_of(3),
            "}": lambda self: self.pushes({}),
            "d": a_dict,
            "s": lambda self: self.set_items([self.stack.pop(-2), self.stack.pop()]),
            "u": lambda self: self.set_items(self.pop_mark()),
            "\x8f": lambda self: self.pushes(set()),
            "\x90": add_items,
            "\x91": lambda self: self.pushes(self.a_set(frozenset, self.pop_mark())),
            "g": lambda self: self.get(int(self.line()[:20])),
            "h": lambda self: self.get(self.number("<B")),
            "j": lambda self: self.get(self.number("<I")),
            "p": lambda self: self.put(int(self.line()[:20])),
            "q": lambda self: self.put(self.number("<B")),
            "r": lambda self: self.put(self.number("<I")),
            "\x94": lambda self: self.put(len(self.memo)),
            "c": lambda self: self.named(self.line().decode("utf-8"), self.line().decode("utf-8")),
            "\x93": named_on_stack,
            "i": instance,
            "P": persistent,
            "Q": persistent,
            "R": reduce,
            "b": build,
        }.items()
    }


_ORDERS: dict[Any, Literal["<", ">", "="]] = {"<": "<", ">": ">", "=": "=", "|": "="}
_MODULES = {
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
    "__builtin__": "builtins",
}


def shown(value: object) -> str:
    """A value from a pickle in a sentence: only its beginning, since nested lists could make the whole endless."""
    if isinstance(value, (bool, int, float, np.number, type(None), np.dtype, _Named)):
        text = value.name if isinstance(value, _Named) else str(value)
    elif isinstance(value, (str, bytes)):
        text = repr(value[:60])
    elif isinstance(value, tuple) and len(value) <= 8 and not any(type(item) is tuple for item in value):
        text = f"({', '.join(map(shown, value))})"
    elif isinstance(value, np.ndarray):
        text = f"an array of {value.dtype} and shape {value.shape}"
    else:
        length = f" of {len(value)}" if isinstance(value, (list, tuple, dict, set, memoryview)) else ""
        text = "an unfinished array" if isinstance(value, _Unbuilt) else f"a {type(value).__name__}{length}"
    return text if len(text) <= 120 else text[:119] + "…"
