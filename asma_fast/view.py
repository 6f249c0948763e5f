"""How one augmented, masked reading of a clip is taken: index maps and a small matrix, never a copy."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

Map = Any  # numpy.ndarray or torch.Tensor


class View:
    """One reading of each clip of a batch: crop, padding, masks, flip, shear and rotation in four small arrays.

    ``out[n,e,t,v,m] = Σ_c transform[n,e,c] · x[n,c,frames[n,t],joints[n,v],m]``; channels beyond the transform's pass
    through. Each array is optional, NumPy or torch, and serves all N clips when its first size is 1. A view has one row
    a clip and serves all its bodies.

    Parameters
    ----------
    frames
        ``(N, T')`` int32: the recorded frame that each position reads. None: all, in order.
    joints
        ``(N, V')`` int32: the recorded joint that each position reads. None: all, in order.
    nodes
        ``(N, V')`` int32: the node of the graph that each position plays; by default ``joints``. After a flip they
        differ: the right hand's recording plays the left hand's node.
    transform
        ``(N, d, d)`` float, d 2 or 3: acts on the first d coordinates.

    Raises
    ------
    TypeError, ValueError
        If an array has the wrong dtype or shape, or the numbers of clips disagree.

    Examples
    --------
    >>> import numpy as np
    >>> flip = View(joints=np.array([[1, 0, 2]], np.int32), nodes=np.array([[0, 1, 2]], np.int32))
    >>> masked = flip.then(View(joints=np.array([[0, 2]], np.int32)))
    >>> masked.joints.tolist(), masked.nodes.tolist()
    ([[1, 2]], [[0, 2]])
    """

    __slots__ = ("frames", "joints", "nodes", "transform")

    frames: Map | None
    joints: Map | None
    nodes: Map | None
    transform: Map | None

    def __init__(
        self,
        frames: Map | None = None,
        joints: Map | None = None,
        nodes: Map | None = None,
        transform: Map | None = None,
    ) -> None:
        self._set(frames, joints, nodes, transform)
        self._validate()

    # Not a frozen dataclass: Lightning takes those apart and refuses to put them together again.
    def _set(self, frames: Map | None, joints: Map | None, nodes: Map | None, transform: Map | None) -> None:
        object.__setattr__(self, "frames", frames)
        object.__setattr__(self, "joints", joints)
        object.__setattr__(self, "nodes", nodes)
        object.__setattr__(self, "transform", transform)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a View does not change; make another one instead of setting {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a View does not change; make another one instead of deleting {name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return View, self.arrays()

    def __repr__(self) -> str:
        names = ("frames", "joints", "nodes", "transform")
        given = [f"{name}={_shape(a)}" for name, a in zip(names, self.arrays(), strict=True) if a is not None]
        return f"View({', '.join(given)})"

    @staticmethod
    def unchecked(frames: Any, joints: Any, nodes: Any, transform: Any) -> View:
        """A view of whatever stands in the four places: for torch's trees, which put other things there."""
        view = object.__new__(View)
        view._set(frames, joints, nodes, transform)
        return view

    def to(self, *args: Any, **kwargs: Any) -> View:
        """The same view with every array a tensor, moved by ``torch.Tensor.to``; a dtype is for the transform alone.

        Lightning and torch's loaders move a view between devices by this method.
        """
        import torch

        copy = kwargs.pop("copy", False)
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)

        def move(value: Map | None, dtype: Any = None) -> Map | None:
            if value is None:
                return None
            return torch.as_tensor(value).to(device=device, dtype=dtype, non_blocking=non_blocking, copy=copy)

        return View(move(self.frames), move(self.joints), move(self.nodes), move(self.transform, dtype))

    def pin_memory(self) -> View:
        """The same view in page-locked memory."""
        import torch

        return View(*(None if value is None else torch.as_tensor(value).pin_memory() for value in self.arrays()))

    def _validate(self) -> None:
        for name in ("frames", "joints", "nodes"):
            value = getattr(self, name)
            if value is None:
                continue
            if not hasattr(value, "shape") or value.ndim != 2:
                raise ValueError(f"view.{name} must have shape (N, positions), got {_shape(value)}")
            if _dtype(value) != "int32":
                raise TypeError(f"view.{name} must be int32, got {_dtype(value)}: cast it")
        matrix = self.transform
        if matrix is not None:
            if not hasattr(matrix, "shape") or matrix.ndim != 3 or matrix.shape[1:] not in ((2, 2), (3, 3)):
                raise ValueError(f"view.transform must have shape (N, d, d) with d 2 or 3, got {_shape(matrix)}")
            if not _dtype(matrix).startswith(("float", "bfloat")):
                raise TypeError(f"view.transform must be floating, got {_dtype(matrix)}")
        if self.joints is not None and self.nodes is not None and self.joints.shape[1] != self.nodes.shape[1]:
            raise ValueError(
                "view.joints and view.nodes must name as many positions, got "
                f"{self.joints.shape[1]} and {self.nodes.shape[1]}"
            )
        rows = 1
        for value in self.arrays():
            if value is not None and value.shape[0] != 1 and value.shape[0] != rows:
                if rows != 1:
                    raise ValueError(f"the arrays of a view must have N rows or 1, got {rows} and {value.shape[0]}")
                rows = value.shape[0]

    def arrays(self) -> tuple[Map | None, Map | None, Map | None, Map | None]:
        """``(frames, joints, nodes, transform)`` as they were given."""
        return self.frames, self.joints, self.nodes, self.transform

    @property
    def graph_nodes(self) -> Map | None:
        """``nodes``, or ``joints`` where no nodes were given."""
        return self.joints if self.nodes is None else self.nodes

    def then(self, after: View) -> View:
        """This view followed by another, whose indices count positions of this one's output.

        Each map of the result is ``self.map[after.map]`` and the transform is ``after.transform @ self.transform``.

        Raises
        ------
        ValueError
            If the transforms have different sizes, the numbers of rows disagree, or ``after`` names a position that
            this view does not have.
        """
        nodes = None
        if self.nodes is not None or after.nodes is not None:
            nodes = _compose(self.graph_nodes, after.graph_nodes)
        return View(
            frames=_compose(self.frames, after.frames),
            joints=_compose(self.joints, after.joints),
            nodes=nodes,
            transform=_product(after.transform, self.transform),
        )


def _shape(value: Any) -> Any:
    return tuple(value.shape) if hasattr(value, "shape") else type(value).__name__


def _dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def _alike(a: Map, b: Map) -> tuple[Map, Map]:
    """Both as tensors where one is."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a, b
    torch = sys.modules["torch"]
    device = b.device if isinstance(a, np.ndarray) else a.device
    return torch.as_tensor(a, device=device), torch.as_tensor(b, device=device)


def _compose(first: Map | None, second: Map | None) -> Map | None:
    if first is None or second is None:
        return second if first is None else first
    first, second = _alike(first, second)
    rows = second.shape[0] if first.shape[0] == 1 else first.shape[0]
    if second.shape[0] not in (1, rows):
        raise ValueError(f"views compose clip by clip, got {first.shape[0]} and {second.shape[0]} rows")
    _check_positions(second, first.shape[1])
    if isinstance(first, np.ndarray):
        first, second = (np.broadcast_to(array, (rows, array.shape[1])) for array in (first, second))
        return np.take_along_axis(first, second, axis=1)
    return first.expand(rows, -1).gather(1, second.expand(rows, -1).long())


def _check_positions(positions: Map, count: int) -> None:
    """Every position lies in [0, count); off the CPU torch itself asserts it."""
    if not isinstance(positions, np.ndarray):
        if positions.device.type != "cpu" or sys.modules["torch"].compiler.is_compiling():
            return
        positions = positions.numpy()
    if positions.size and (positions.min() < 0 or positions.max() >= count):
        raise ValueError(f"positions must lie in [0, {count}), got {positions.min()} to {positions.max()}")


def _product(left: Map | None, right: Map | None) -> Map | None:
    if left is None or right is None:
        return right if left is None else left
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"transforms must have one size to compose, got {left.shape[1]} and {right.shape[1]}")
    rows = right.shape[0] if left.shape[0] == 1 else left.shape[0]
    if right.shape[0] not in (1, rows):
        raise ValueError(f"views compose clip by clip, got {right.shape[0]} and {left.shape[0]} rows")
    left, right = _alike(left, right)
    if left.dtype != right.dtype:
        raise TypeError(f"transforms must have one dtype to compose, got {_dtype(right)} and {_dtype(left)}")
    return left @ right
