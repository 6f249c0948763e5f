"""Bytes and FLOPs of code that runs on torch, op by op, counted and not timed.

An op of torch that computes is a kernel, which reads its tensors and writes its results; views and the like move
nothing. Tensors on torch's ``meta`` device will do: only their shapes count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Kernel:
    """What one kernel does.

    Parameters
    ----------
    name
        Of the op.
    read, written
        Bytes.
    flop
        Of its matrix product, if it is one; a sum or a rounding of each number it moves is not counted.
    width
        The narrowest side of that product.
    needed
        The share of it that is not with padding.
    """

    name: str
    read: float
    written: float
    flop: float = 0.0
    width: int = 0
    needed: float = 1.0

    @property
    def moved(self) -> float:
        """Bytes read and written."""
        return self.read + self.written

    def scaled(self, share: float) -> Kernel:
        """With numbers of another size."""
        return replace(self, read=self.read * share, written=self.written * share)


#: Views that the schema does not call so, what allocates only, and what moves one number.
_NOTHING = {"_unsafe_view", "_reshape_alias", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
_NOTHING |= {"lift_fresh", "_local_scalar_dense", "scalar_tensor", "is_same_size", "device"}
_NOTHING |= {"_record_function_enter_new", "_record_function_exit"}
#: The argument that they write is not read.
_ONLY_WRITE = {"copy_", "fill_", "zero_", "uniform_", "normal_", "random_", "bernoulli_", "exponential_", "index_put_"}
#: Of the first argument as many elements are read as the result has.
_GATHERS = {"gather", "index", "index_select"}
#: Takes the op's name, its arguments and its result: the kernels that do it; None: one that reads all and writes all.
Translator = Callable[[str, Sequence[Any], Any], "list[Kernel] | None"]


def moved_bytes(tensor: Tensor) -> int:
    """Of a tensor's elements, those that it repeats counted once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride or size == 0 else 1
    return count * tensor.element_size()


def tensors_in(value: object) -> Iterator[Tensor]:
    """Those of nested lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from tensors_in(one)


class Traffic(TorchDispatchMode):
    """Counts while it is active.

    Parameters
    ----------
    translate
        Says what ops are that a library has registered.

    Attributes
    ----------
    kernels : list of Kernel
        In their order.
    """

    def __init__(self, translate: Translator | None = None) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []
        self._translate = translate

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        result = func(*args, **options)
        namespace, _, name = func._schema.name.partition("::")
        told = self._translate(name, args, result) if self._translate and namespace != "aten" else None
        if told is None:
            kernel = counted(func, args, options, result)
            told = [] if kernel is None else [kernel]
        self.kernels += told
        return result


def counted(func: Any, args: tuple[Any, ...], options: Mapping[str, Any], result: object) -> Kernel | None:
    """What a call of an op of torch did; None if it moved nothing."""
    name = func._schema.name.rpartition("::")[2]
    if name in _NOTHING or _is_view(func):
        return None
    given, changed = _arguments(func, args, options)
    fresh = [one for one in tensors_in(result) if not any(one is other for other in changed)]
    written = sum(map(moved_bytes, fresh)) + sum(map(moved_bytes, changed))
    if name == "index_put_":
        written = moved_bytes(given[-1])
    if name in _ONLY_WRITE or func._overloadname == "out":
        given = [one for one in given if not any(one is other for other in changed)]
    reads = [moved_bytes(one) for one in _distinct(given)]
    if name in _GATHERS and fresh:
        reads[0] = min(reads[0], fresh[0].numel() * fresh[0].element_size())
    formula = flop_registry.get(func._overloadpacket)
    flop = float(formula(*args, **options, out_val=result)) if formula else 0.0
    return Kernel(name, float(sum(reads)), float(written), flop, _width(given) if flop else 0)


def _is_view(func: Any) -> bool:
    returned = [one.alias_info for one in func._schema.returns]
    return bool(returned) and all(info is not None and not info.is_write for info in returned)


def _arguments(func: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """All tensors among the arguments, and those that the op writes."""
    given: list[Tensor] = []
    changed: list[Tensor] = []
    for place, argument in enumerate(func._schema.arguments):
        value = args[place] if place < len(args) else options.get(argument.name)
        found = list(tensors_in(value))
        given += found
        if argument.alias_info is not None and argument.alias_info.is_write:
            changed += found
    return given, changed


def _distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    found: list[Tensor] = []
    for tensor in tensors:
        if not any(tensor is other for other in found):
            found.append(tensor)
    return found


def _width(operands: list[Tensor]) -> int:
    """Of a product's operands, the narrowest side; a convolution sums over channels and taps."""
    maps = [one for one in operands if one.ndim > 1]
    weight = maps[-1]
    if weight.ndim == 4:
        return min(weight.shape[0], weight[0].numel())
    return min(min(one.shape[-2:]) for one in maps)


def count(call: Callable[[], object], translate: Translator | None = None) -> list[Kernel]:
    """The kernels of a call."""
    with Traffic(translate) as traffic:
        call()
    return traffic.kernels
