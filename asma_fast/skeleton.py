"""Joint layouts: which joints a recording has, how they are wired, and the arrays graph convolutions need of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Partition = Literal["spatial", "distance", "uniform"]
PARTITIONS: tuple[Partition, ...] = ("spatial", "distance", "uniform")


@dataclass(frozen=True)
class Skeleton:
    """A joint layout: names, edges and orientation of one recording device or pose estimator.

    Parameters
    ----------
    edges
        Pairs of joints, 0-based. The order within a pair and of the pairs does not matter. The graph must be connected.
    joints
        Joint names; by default ``joint0``, ``joint1``, …, as many as the edges reach.
    name
        The layout's name; stores and model files record it.
    centre
        The joint to which coordinates are made relative and from which the spatial partition measures distance.
        Several joints make a virtual one, their mean.
    shoulders
        ``(left, right)``, each a tuple of joints (several make a virtual one); clips are turned so that right − left
        points to +x. None where the layout has no shoulders: then no rotation step is possible.
    pairs
        ``(left, right)`` joints which a flip exchanges.
    units
        Of the coordinates: ``"metres"``, ``"millimetres"``, ``"pixels"`` or ``"unknown"``.
    up
        The axis that points up: ``"+x"``, ``"-y"``, …
    dimensions
        2 or 3 spatial coordinates.

    Raises
    ------
    ValueError
        If an index lies outside the layout, a name or a pair's joint occurs twice, or the graph is not connected.

    Examples
    --------
    >>> skeleton = Skeleton.named("ntu-rgb+d")
    >>> skeleton.adjacency("spatial").shape
    (3, 25, 25)
    >>> Skeleton(edges=[(0, 1), (1, 2)]).degree.tolist()
    [1, 2, 1]
    """

    edges: tuple[tuple[int, int], ...]
    joints: tuple[str, ...] = ()
    name: str = "custom"
    centre: tuple[int, ...] = (0,)
    shoulders: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    pairs: tuple[tuple[int, int], ...] = ()
    units: str = "unknown"
    up: str = "+y"
    dimensions: int = 3

    def __post_init__(self) -> None:
        edges = tuple((int(a), int(b)) for a, b in self.edges)
        names = tuple(self.joints)
        if not names:
            names = tuple(f"joint{v}" for v in range(1 + max((max(edge) for edge in edges), default=0)))
        centre = _joints(self.centre)
        for field, value in (("edges", edges), ("joints", names), ("centre", centre)):
            object.__setattr__(self, field, value)
        object.__setattr__(self, "pairs", tuple((int(a), int(b)) for a, b in self.pairs))
        if self.shoulders is not None:
            left, right = self.shoulders
            object.__setattr__(self, "shoulders", (_joints(left), _joints(right)))
        self._validate()

    def _validate(self) -> None:
        count = len(self.joints)
        if len(set(self.joints)) != count:
            raise ValueError(f"joint names must be distinct, got {self.joints}")
        if not self.centre:
            raise ValueError("centre must name at least one joint")
        named: list[tuple[str, int]] = [("edges", v) for edge in self.edges for v in edge]
        named += [("centre", v) for v in self.centre]
        named += [("shoulders", v) for side in self.shoulders or () for v in side]
        named += [("pairs", v) for pair in self.pairs for v in pair]
        for field, joint in named:
            if not 0 <= joint < count:
                raise ValueError(f"{field} must name joints in [0, {count}), got {joint}")
        sided = [v for pair in self.pairs for v in pair]
        if len(set(sided)) != len(sided):
            raise ValueError(f"a joint may stand in one left-right pair only, got {self.pairs}")
        if self.dimensions not in (2, 3):
            raise ValueError(f"dimensions must be 2 or 3, got {self.dimensions}")
        if len(self.up) != 2 or self.up[0] not in "+-" or self.up[1] not in "xyz"[: self.dimensions]:
            raise ValueError(f"up must be a signed axis such as '+y', got {self.up!r}")
        lost = [v for v, hops in enumerate(_hops(self.edges, count, (0,))) if hops < 0]
        if lost:
            raise ValueError(f"the graph must be connected; not reached from joint 0: {lost}")

    @staticmethod
    def named(name: str) -> Skeleton:
        """The layout of that name; ``Skeleton.names()`` lists them.

        Raises
        ------
        ValueError
            If there is no such layout.
        """
        from asma_fast.layouts import LAYOUTS

        if name not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(sorted(LAYOUTS))}; got {name!r}")
        return LAYOUTS[name]

    @staticmethod
    def names() -> tuple[str, ...]:
        """Names of the layouts that come with the package."""
        from asma_fast.layouts import LAYOUTS

        return tuple(sorted(LAYOUTS))

    def __len__(self) -> int:
        return len(self.joints)

    @property
    def degree(self) -> NDArray[np.int32]:
        """``(V,)`` int32: how many joints each joint is wired to."""
        return np.asarray((_neighbours(self.edges, len(self))).sum(axis=1), dtype=np.int32)

    @property
    def flip(self) -> NDArray[np.int32]:
        """``(V,)`` int32: the joint that each joint reads after left and right are exchanged."""
        order = np.arange(len(self), dtype=np.int32)
        for left, right in self.pairs:
            order[left], order[right] = right, left
        return order

    @property
    def bones(self) -> NDArray[np.int32]:
        """``(V,)`` int32: each joint's parent on the shortest way to the centre; the root is its own parent.

        The bone stream is ``x[…, v] − x[…, bones[v]]``. A virtual centre is rooted at its first joint.
        """
        parent = np.arange(len(self), dtype=np.int32)
        neighbours = _neighbours(self.edges, len(self))
        root = self.centre[0]
        seen, queue = {root}, deque([root])
        while queue:
            joint = queue.popleft()
            for other in map(int, np.flatnonzero(neighbours[joint])):
                if other not in seen:
                    seen.add(other)
                    parent[other] = joint
                    queue.append(other)
        return parent

    def adjacency(self, partition: Partition = "spatial") -> NDArray[np.float32]:
        """ST-GCN's normalised adjacency (Yan et al., AAAI 2018), one matrix a partition, self-loops included.

        Parameters
        ----------
        partition
            ``"uniform"`` (K=1): all neighbours alike. ``"distance"`` (K=2): self, neighbours. ``"spatial"`` (K=3):
            self; from neighbours that are farther from the centre or as far; from neighbours that are nearer. As in
            the published code, not the paper's text, all joints beyond the centre's neighbours count as equally far.

        Returns
        -------
        ndarray of shape (K, V, V), float32
            ``A[k, v, w]`` carries joint v to joint w; over k and v each column sums to 1.
        """
        matrices: NDArray[np.float32] = _adjacency(self, partition).copy()
        return matrices

    def pattern(self, partition: Partition = "spatial") -> NDArray[np.bool_]:
        """``(K, V, V)`` bool: where :meth:`adjacency` is not zero."""
        nonzero: NDArray[np.bool_] = _adjacency(self, partition) != 0
        return nonzero


def _joints(named: int | Sequence[int]) -> tuple[int, ...]:
    return (int(named),) if isinstance(named, (int, np.integer)) else tuple(int(v) for v in named)


def _neighbours(edges: Sequence[tuple[int, int]], count: int) -> NDArray[np.bool_]:
    matrix = np.zeros((count, count), dtype=bool)
    for a, b in edges:
        if a != b:
            matrix[a, b] = matrix[b, a] = True
    return matrix


def _hops(edges: Sequence[tuple[int, int]], count: int, sources: Sequence[int]) -> list[int]:
    """Edges from the nearest of ``sources`` to each joint; −1 where there is no way."""
    neighbours = _neighbours(edges, count)
    hops = [-1] * count
    queue = deque(sources)
    for source in sources:
        hops[source] = 0
    while queue:
        joint = queue.popleft()
        for other in map(int, np.flatnonzero(neighbours[joint])):
            if hops[other] < 0:
                hops[other] = hops[joint] + 1
                queue.append(other)
    return hops


@lru_cache(maxsize=64)
def _adjacency(skeleton: Skeleton, partition: Partition) -> NDArray[np.float32]:
    if partition not in PARTITIONS:
        raise ValueError(f"partition must be one of {', '.join(PARTITIONS)}; got {partition!r}")
    count = len(skeleton)
    neighbours = _neighbours(skeleton.edges, count)
    linked = neighbours | np.eye(count, dtype=bool)
    normalised = linked / linked.sum(axis=0, dtype=np.float64)
    if partition == "uniform":
        parts = [linked]
    elif partition == "distance":
        parts = [np.eye(count, dtype=bool), neighbours]
    else:
        hops = np.minimum(_hops(skeleton.edges, count, skeleton.centre), 2)
        inward = hops[:, None] >= hops[None, :]
        parts = [np.eye(count, dtype=bool), neighbours & inward, neighbours & ~inward]
    stacked = np.stack([np.where(part, normalised, 0.0) for part in parts]).astype(np.float32)
    stacked.setflags(write=False)
    return stacked
