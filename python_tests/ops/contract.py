"""What every op must satisfy, once: the tests of the ops are written with these.

pytest puts this folder on the path, so a test says ``from contract import …``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import select
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from asma_fast import View, _array
from asma_fast._backends import native, why_not

#: Sizes on both sides of every vector width, for :func:`pairwise`.
ODD_SIZES = {"C": (1, 2, 3, 16, 17, 64, 256), "T": (1, 2, 7, 50, 64, 300), "V": (1, 3, 17, 20, 25, 33)}


def implementations(*wanted: str) -> list[str]:
    """Those of ``wanted`` (default: all that serve CPU arrays) that can run here."""
    return [impl for impl in wanted or ("reference", "numba", "cpu") if why_not(impl) is None]


# ---- what to run on: instruction sets, sizes, layouts ----


def instruction_sets(*, int8: bool = False) -> list[str]:
    """Every instruction set this CPU has, for ``parametrize``; with those that differ in their int8 kernels alone."""
    sets = native().available_instruction_sets()
    return [name for name in sets if int8 or not name.endswith(("vnni", "dotprod"))]


@contextlib.contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Force one instruction set, and restore the one in force."""
    before = native().instruction_set()
    native().set_instruction_set(name)
    try:
        yield
    finally:
        native().set_instruction_set(before)


def pairwise(**sizes: Sequence[Any]) -> list[dict[str, Any]]:
    """Few combinations in which every pair of values of two different names occurs. Deterministic.

    Examples
    --------
    >>> len(pairwise(a=(1, 2), b=(1, 2), c=(1, 2))) < 8
    True
    """
    names = list(sizes)
    open_pairs = {
        ((a, x), (b, y)) for a, b in itertools.combinations(names, 2) for x in sizes[a] for y in sizes[b]
    }  # fmt: skip
    if len(names) < 2:
        return [{name: value} for name in names for value in sizes[name]]
    cover = []
    while open_pairs:
        row = dict(min(open_pairs, key=repr))
        for name in names:
            if name in row:
                continue
            row[name] = max(sizes[name], key=lambda value: len(_pairs({**row, name: value}, names) & open_pairs))
        open_pairs -= _pairs(row, names)
        cover.append({name: row[name] for name in names})
    return cover


def _pairs(row: Mapping[str, Any], names: Sequence[str]) -> set[Any]:
    present = [(name, row[name]) for name in names if name in row]
    return set(itertools.combinations(present, 2))


def variants(x: np.ndarray) -> Iterator[tuple[str, Any]]:
    """The same values, NumPy and torch, in every layout an op must read: ``(name, array)``.

    Contiguous; axes reversed in memory; channels last (rank 4 and 5); every second element of a wider array; one
    element past a vector-aligned address; for NumPy also negative strides, memory aligned to a byte only (channels last
    where the rank has such an order) and strides that are no whole elements.
    """
    for name, layout in _layouts(x):
        yield f"numpy {name}", layout
        if name not in ("negative strides", "unaligned", "field of records"):
            yield f"torch {name}", torch.from_numpy(layout)


def _layouts(x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "contiguous", np.ascontiguousarray(x).copy()
    yield "reversed axes", x.T.copy().T
    if x.ndim in (4, 5):
        order = (0, 2, 3, 1) if x.ndim == 4 else (0, 4, 2, 3, 1)
        yield "channels last", x.transpose(order).copy().transpose(np.argsort(order))
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1] + 1), 113, dtype=x.dtype)
    wide[..., 1::2] = x
    yield "every second", wide[..., 1::2]
    yield "misaligned", misaligned(x)
    yield "negative strides", np.flip(np.flip(x).copy())
    yield "unaligned", unaligned(x)
    records = np.zeros(x.shape, dtype=[("flag", np.uint8), ("value", x.dtype)])
    records["value"] = x
    yield "field of records", records["value"]


def misaligned(x: np.ndarray) -> np.ndarray:
    """A dense copy that starts one element past a multiple of 64 bytes."""
    buffer = np.zeros(x.size + 1 + 64 // x.itemsize, dtype=x.dtype)
    start = (-buffer.ctypes.data % 64) // x.itemsize + 1
    copy = buffer[start : start + x.size].reshape(x.shape)
    copy[...] = x
    return copy


def unaligned(x: np.ndarray) -> np.ndarray:
    """A dense copy, channels last at rank 4 and 5, that starts one byte past an aligned address."""
    order = {4: (0, 2, 3, 1), 5: (0, 4, 2, 3, 1)}.get(x.ndim, tuple(range(x.ndim)))
    physical = x.transpose(order)
    memory = np.frombuffer(bytes(1) + physical.tobytes(), np.uint8)[1:].view(x.dtype)
    return memory.reshape(physical.shape).transpose(np.argsort(order))


def map_layouts(view: View) -> Iterator[tuple[str, View]]:
    """Views of the same values as ``view``, NumPy, whose arrays are not dense; and of one row served to all clips."""

    def of(layout: Callable[[np.ndarray], np.ndarray]) -> View:
        return View(*(None if array is None else layout(array) for array in view.arrays()))

    def every_second(array: np.ndarray) -> np.ndarray:
        wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), 99, array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]

    yield "every second", of(every_second)
    yield "reversed", of(lambda array: np.flip(np.flip(array).copy()))
    yield "transposed", of(lambda array: array.T.copy().T)


def check_map_layouts(op: Callable[[Any, View], Any], x: np.ndarray, view: View) -> None:
    """``op(x, view)`` gives the same bits for maps in every layout, NumPy and torch."""
    expected = to_numpy(op(x, view))
    for name, layout in map_layouts(view):
        assert_bitwise(op(x, layout), expected, what=f"numpy maps {name}")
        if name != "reversed":
            tensors = View(*to_tensors(*layout.arrays()))
            assert_bitwise(op(torch.from_numpy(x), tensors), expected, what=f"torch maps {name}")
    first = View(*(None if a is None else a[:1] for a in view.arrays()))
    wide = View(*(None if a is None else np.broadcast_to(a[:1], (len(x), *a.shape[1:])) for a in view.arrays()))
    assert_bitwise(op(x, wide), op(x, first), what="numpy maps broadcast")
    expanded = View(
        *(None if a is None else torch.from_numpy(a[:1]).expand(len(x), *a.shape[1:]) for a in view.arrays())
    )
    assert_bitwise(op(torch.from_numpy(x), expanded), op(x, first), what="torch maps expanded")


def check_forward_mode_refused(op: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    """``op(x)`` in forward-mode differentiation is an error that names the implementation to take."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".torch.jit.script", DeprecationWarning)  # torch's own, on entering the mode
        with pytest.raises(NotImplementedError, match=r"no forward-mode derivative .* impl='reference'"):
            torch.func.jvp(op, (x,), (torch.ones_like(x),))
        with torch.autograd.forward_ad.dual_level():
            op(x)  # nothing to differentiate
            with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
                op(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))


def native_array(x: np.ndarray, sizes: Sequence[int] | None = None, strides: Sequence[int] | None = None) -> Any:
    """What the compiled module reads of ``x``, or of other sizes and strides that are claimed of its memory."""
    sizes = x.shape if sizes is None else tuple(sizes)
    strides = tuple(s // x.itemsize for s in x.strides) if strides is None else tuple(strides)
    return native().Array(x.ctypes.data, sizes, strides, getattr(native().DType, str(x.dtype)))


def to_numpy(result: Any) -> Any:
    """A result (or a tuple of them) as NumPy arrays."""
    if isinstance(result, (tuple, list)):
        return tuple(to_numpy(part) for part in result)
    return result.detach().cpu().numpy() if isinstance(result, torch.Tensor) else np.asarray(result)


def to_tensors(*arrays: Any) -> list[Any]:
    """NumPy arrays as tensors; everything else as it is."""
    return [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in arrays]


# ---- what to assert of values ----


def assert_within_budget(result: Any, exact: Any, reference: Any, *, what: str = "result", times: float = 2.0) -> None:
    """``result`` is at most ``times`` as far from ``exact`` (float64) as ``reference``, a plain run in its own dtype.

    Distance is the largest absolute difference. The budget never falls below four units in the last place of the
    largest exact value: a reference may be right by luck. NaNs and infinities must stand in the same places.
    """
    result, exact, reference = (to_numpy(value) for value in (result, exact, reference))
    assert exact.dtype == np.float64, f"{what}: the exact values must be float64, got {exact.dtype}"
    assert result.dtype == reference.dtype, f"{what}: got {result.dtype}, the reference is {reference.dtype}"
    assert result.shape == exact.shape == reference.shape, f"{what}: {result.shape}, {exact.shape}, {reference.shape}"
    finite = np.isfinite(exact)
    np.testing.assert_array_equal(result[~finite].astype(np.float64), exact[~finite], err_msg=what)
    if not finite.any():
        return
    error = np.abs(result.astype(np.float64) - exact, where=finite, out=np.zeros(exact.shape))
    reference_error = np.abs(reference[finite].astype(np.float64) - exact[finite]).max()
    floor = 4 * np.finfo(result.dtype).eps * np.abs(exact[finite]).max()
    worst = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
    assert error[worst] <= max(times * reference_error, floor), (
        f"{what}: off by {error[worst]:.3g} at {tuple(map(int, worst))} ({result[worst]} for {exact[worst]}); "
        f"the reference is off by at most {reference_error:.3g}, the floor is {floor:.3g}"
    )


def gradients(
    fn: Callable[..., torch.Tensor], tensors: Mapping[str, torch.Tensor], dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor | None]:
    """Gradients of ``fn(**tensors)`` in the floating tensors, cast to ``dtype``, for one fixed random cotangent."""
    leaves = {
        name: value.detach().to(dtype).requires_grad_() if value.is_floating_point() else value
        for name, value in tensors.items()
    }
    result = fn(**leaves)
    cotangent = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    result.backward(cotangent.to(result.dtype))
    return {name: leaf.grad for name, leaf in leaves.items() if leaf.is_floating_point()}


def assert_gradients_match(
    result: Mapping[str, torch.Tensor | None],
    exact: Mapping[str, torch.Tensor | None],
    reference: Mapping[str, torch.Tensor | None],
    times: float = 2.0,
) -> None:
    """Every gradient is there, within the budget, and no slice along any axis has lost or gained magnitude.

    The magnitude of each slice must be within 1 % of the exact one (a zeroed row hides under any absolute budget), and
    a slice whose exact gradient is all zero, as a masked joint's or frame's, must be exactly zero.
    """
    assert result.keys() == exact.keys() == reference.keys()
    for name, gradient in result.items():
        assert gradient is not None, f"the gradient of {name} is None"
        assert_within_budget(gradient, exact[name], reference[name], what=f"gradient of {name}", times=times)
        got, wanted = to_numpy(gradient).astype(np.float64), to_numpy(exact[name])
        for axis in range(wanted.ndim):
            others = tuple(other for other in range(wanted.ndim) if other != axis)
            magnitude, exact_magnitude = (np.sqrt((g * g).sum(axis=others)) for g in (got, wanted))
            for index in np.flatnonzero(np.abs(magnitude - exact_magnitude) > 0.01 * exact_magnitude):
                raise AssertionError(
                    f"gradient of {name}: slice {index} of axis {axis} has magnitude {magnitude[index]:.6g}, "
                    f"exactly {exact_magnitude[index]:.6g}"
                )


def assert_bitwise(result: Any, expected: Any, *, what: str = "result") -> None:
    """The same dtype, shape and bits, NaN included."""
    result, expected = to_numpy(result), to_numpy(expected)
    if isinstance(expected, tuple):
        assert len(result) == len(expected), f"{what}: {len(result)} results for {len(expected)}"
        for position, pair in enumerate(zip(result, expected, strict=True)):
            assert_bitwise(*pair, what=f"{what}[{position}]")
        return
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape), (
        f"{what}: {result.dtype} {result.shape} for {expected.dtype} {expected.shape}"
    )
    if result.tobytes() != expected.tobytes():
        different = np.argwhere(~((result == expected) | ((result != result) & (expected != expected))))
        where = tuple(map(int, different[0])) if len(different) else "the sign of a zero or the payload of a NaN"
        raise AssertionError(f"{what}: bits differ at {len(different)} places, first {where}")


# ---- what to assert of an op ----


@contextlib.contextmanager
def guarded_outputs() -> Iterator[list[Any]]:
    """Ops called inside allocate each output between sentinels, and find it poisoned: NaN, or the least integer.

    On leaving, the sentinels must stand. Compare the results as usual: what a kernel forgot to write is poison. Yields
    the list of outputs allocated.
    """
    original, outputs, buffers = _array.empty, [], []

    def guarded(shape: Sequence[int], like: Any, dtype: str | None = None, order: Sequence[int] | None = None) -> Any:
        order = range(len(shape)) if order is None else order
        count, guard = int(np.prod(shape)), 64
        buffer = original((count + 2 * guard,), like, dtype)
        view = buffer if isinstance(buffer, np.ndarray) else buffer.detach().numpy()
        view[:] = np.nan if view.dtype.kind == "f" else (True if view.dtype.kind == "b" else np.iinfo(view.dtype).min)
        view[:guard] = view[guard + count :] = True if view.dtype.kind == "b" else 77
        buffers.append((view, guard, count))
        physical = buffer[guard : guard + count].reshape([shape[axis] for axis in order])
        back = tuple(int(axis) for axis in np.argsort(order))
        outputs.append(physical.transpose(back) if isinstance(buffer, np.ndarray) else physical.permute(back))
        return outputs[-1]

    holders = [
        module
        for name, module in sys.modules.items()
        if name.startswith("asma_fast") and getattr(module, "empty", None) is original
    ]
    for module in holders:
        module.empty = guarded  # type: ignore[attr-defined]
    try:
        yield outputs
    finally:
        for module in holders:
            module.empty = original  # type: ignore[attr-defined]
    assert outputs, "no output was allocated: nothing was tested"
    for view, guard, count in buffers:
        sentinel = True if view.dtype.kind == "b" else 77
        assert (view[:guard] == sentinel).all(), "an output was written before its start"
        assert (view[guard + count :] == sentinel).all(), "an output was written past its end"


def check_threads_bitwise(fn: Callable[[], Any], threads: Sequence[int] = (1, 2, 3, 5)) -> None:
    """``fn()`` gives the same bits for every number of threads."""
    before = torch.get_num_threads()
    try:
        results = []
        for count in threads:
            torch.set_num_threads(count)
            native().set_num_threads(count)
            results.append(to_numpy(fn()))
    finally:
        torch.set_num_threads(before)
        native().set_num_threads(before)
    for count, result in zip(threads[1:], results[1:], strict=True):
        assert_bitwise(result, results[0], what=f"{count} threads against {threads[0]}")


def check_forked(fn: Callable[[], Any], *, seconds: float = 30.0) -> None:
    """``fn()`` gives the same bits in a forked child of a process whose thread pool is awake, and does not hang.

    Give arrays that the kernels read without a copy: torch's own parallel copy may hang in such a child.
    """
    expected = to_numpy(fn())
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forking beside threads: our subject
        child = os.fork()
    if child == 0:
        status = 1
        try:
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(to_numpy(fn()), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    answer = bytearray()
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], seconds)[0] and (piece := pipe.read(1 << 16)):
            answer += piece
        else:
            hung = not select.select([pipe], [], [], 0)[0]
    if hung:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert not hung, f"the forked child gave no answer within {seconds} s"
    assert status == 0, f"the forked child failed with status {status}"
    assert_bitwise(pickle.loads(bytes(answer)), expected, what="forked child")


def check_compiles(fn: Callable[..., Any], batches: Sequence[Sequence[Any]]) -> None:
    """``torch.compile(fn, fullgraph=True, dynamic=True)`` serves every batch of arguments with one graph, bit for bit.

    Give batches that differ in sizes and in seeds. In the first batch let independent sizes differ, and none be 0 or 1:
    torch takes equal sizes for one symbol, and specialises 0 and 1.
    """
    assert len(batches) > 1, "one batch cannot show a recompilation"
    torch._dynamo.reset()
    compiled = torch.compile(fn, fullgraph=True, dynamic=True, backend="aot_eager")
    try:
        compiled(*batches[0])
        with torch._dynamo.config.patch(error_on_recompile=True):
            for batch in batches:
                assert_bitwise(compiled(*batch), fn(*batch), what="compiled")
    finally:
        torch._dynamo.reset()


def opcheck(name: str, *args: Any) -> None:
    """torch's own checks of a registered op on its canonical arguments: schema, aliasing, fake kernel, autograd rule.

    It passes an op that has no gradient at all: use :func:`assert_gradients_match` as well.
    """
    torch.library.opcheck(getattr(torch.ops.asma_fast, name).default, tuple(args))
