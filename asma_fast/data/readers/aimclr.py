"""Arrays of AimCLR (Guo et al., AAAI 2022) and PSTL, and of the same make those of ST-GCN, 2s-AGCN and SkeletonCLR."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.clip import Clip, ClipInfo, SplitRule
from asma_fast.data.errors import FormatError
from asma_fast.data.npy import map_array
from asma_fast.data.pickles import load_pickle, shown
from asma_fast.data.preprocessing import Preprocessing
from asma_fast.data.readers.base import Job, Plan, some
from asma_fast.data.readers.ntu import Ntu
from asma_fast.data.readers.ready_made import (
    MOST_CLASSES,
    ReadyMade,
    class_names,
    each,
    float32_frames,
    groups,
    left_out,
    ntu_numbers,
    span,
    split_by_names,
    token_of,
    whole_number,
    without_padding,
)
from asma_fast.skeleton import Skeleton

if TYPE_CHECKING:
    from asma_fast.data.prepare import PrepareConfig

_SPLITS = ("xsub", "xview", "xset")


@dataclass(frozen=True)
class _Pair:
    """An array, its names and labels."""

    array: Path
    labels_file: Path
    names: tuple[str, ...]
    labels: tuple[Any, ...]


class AimClr(ReadyMade):
    """``{train,val}_position.npy`` ``(N, 3, T, 25, M)`` with ``{train,val}_label.pkl``, a pair of names and labels.

    The source is the folder that holds them (``xsub``, say, which then names the split; else it is ``published``), or
    one array, its labels beside it or named by ``labels``. ST-GCN's ``*_data.npy`` and 2s-AGCN's
    ``*_data_joint.npy`` are read alike.

    Arrays of 50 frames whose spine-shoulder lies at the origin are AimCLR's: centred, resized and turned already, which
    the clips record as preprocessing ``aimclr``; the number of frames recorded is not known any more. Any others are
    taken as recorded, up to their last frame that is not all zeros; what their makers did to them (2s-AGCN centres and
    turns) is not known to the file.
    """

    options = frozenset({"labels", "fps"})
    dataset = "aimclr"
    skeleton = "ntu-rgb+d"
    bodies = 2
    classes = Ntu.classes
    pattern = re.compile(r"(?P<part>train|val|test)_(?:position|data|data_joint)\.npy")

    def __init__(self) -> None:
        self.parts: dict[str, frozenset[str]] = {}
        self.split = "published"
        self._centre = Skeleton.named(self.skeleton).centre[0]

    def plan(self, config: PrepareConfig) -> Plan:
        source = config.source
        if source is None or not source.exists():
            raise ValueError(f"source must be a folder of AimCLR's arrays, or one array; got {source}")
        if source.is_dir() and config.labels is not None:
            raise ValueError(f"labels goes with a single array; {source} is a folder")
        arrays, ignored = ({"": source}, []) if source.is_file() else self._arrays(source)
        pairs = {part: self._pair(array, config.labels) for part, array in arrays.items()}
        self.parts = {part: frozenset(pair.names) for part, pair in pairs.items() if part}
        folder = source if source.is_dir() else source.parent
        self.split = folder.name if folder.name in _SPLITS else "published"
        recipes = {self._recipe(map_array(pair.array)) for pair in pairs.values()}
        if len(recipes) > 1:
            raise ValueError(f"{source}: some arrays are preprocessed and some are not; prepare them apart")
        self.applied = recipes.pop()
        exclude = left_out(config)
        jobs, excluded = [], []
        for pair in pairs.values():
            kept = [index for index, name in enumerate(pair.names) if name not in exclude]
            excluded += [name for name in pair.names if name in exclude]
            numbers = map_array(pair.array)
            alone = {i for i in kept if not np.count_nonzero(numbers[i, :, 0]) and not np.count_nonzero(numbers[i])}
            for group in groups(kept, alone):
                token = token_of(pair.array, pair.labels_file, group, config.fps)
                job = partial(self._read, pair, group, config.fps or None)
                jobs.append(Job(f"{pair.array.name}, {span(group)}", token, job))
        if not jobs:
            raise ValueError(f"{source} holds no clip; {len(excluded)} excluded")
        return Plan(tuple(jobs), tuple(ignored), tuple(excluded))

    def protocol(self, clips: Collection[ClipInfo]) -> tuple[tuple[str, ...], Mapping[str, SplitRule]]:
        """NTU's classes where names and labels are its own, else numbers; the split that the files make."""
        test = self.parts.get("val", frozenset()) | self.parts.get("test", frozenset())
        splits = {self.split: split_by_names(self.parts.get("train", ()), test)} if self.parts else {}
        return class_names(clips), splits

    def _arrays(self, folder: Path) -> tuple[dict[str, Path], list[str]]:
        """Part → array."""
        arrays: dict[str, Path] = {}
        ignored = []
        for path in sorted(folder.iterdir()):
            match = self.pattern.fullmatch(path.name)
            if match is None:
                ignored += [] if path.name.endswith("_label.pkl") or path.is_dir() else [path.name]
            elif match["part"] in arrays:
                raise ValueError(f"{folder} holds {arrays[match['part']].name} and {path.name}: name one as source")
            else:
                arrays[match["part"]] = path
        if not arrays:
            inside = sorted(path.parent.name for path in folder.glob("*/*.npy") if self.matches(path))
            found = f"them in {', '.join(dict.fromkeys(inside))}; name one" if inside else some(ignored) or "none"
            raise ValueError(f"{folder} holds no array of AimCLR's: expected train_position.npy, found {found}")
        return arrays, ignored

    def _pair(self, array: Path, labels: Path | None) -> _Pair:
        match = self.pattern.fullmatch(array.name)
        if labels is None and match is None:
            raise ValueError(f"labels must name the .pkl of names and labels for {array}, got None")
        path = labels or array.with_name(f"{match and match['part']}_label.pkl")
        content = load_pickle(path)
        sound = isinstance(content, (tuple, list)) and len(content) == 2
        columns = [entry.tolist() if isinstance(entry, np.ndarray) else entry for entry in content] if sound else []
        if not all(isinstance(column, (list, tuple)) for column in columns) or len({*map(len, columns)}) != 1:
            raise FormatError(path, "a pair of as many names as labels", f"a {type(content).__name__}")
        names, numbers = columns
        for name in names:
            if not isinstance(name, str) or not name:
                raise FormatError(path, "names that are strings", shown(name))
        shape = self._checked(array, map_array(array)).shape
        if shape[0] != len(names):
            raise FormatError(path, f"{shape[0]} names and labels, as in {array.name}", str(len(names)))
        return _Pair(array, path, tuple(name.removesuffix(".skeleton") for name in names), tuple(numbers))

    def _checked(self, path: Path, array: NDArray[Any]) -> NDArray[Any]:
        joints = len(Skeleton.named(self.skeleton))
        fits = array.ndim == 5 and array.shape[1] == 3 and array.shape[3] == joints and array.shape[4] in (1, 2)
        if not fits or 0 in array.shape or array.dtype.kind not in "fiu":
            found = f"{array.dtype} of shape {array.shape}"
            raise FormatError(path, f"numbers of shape (N, 3, T, {joints}, 2)", found)
        return array

    def _recipe(self, array: NDArray[Any]) -> Preprocessing | None:
        """AimCLR's where the clips, of which some are looked at, can have been made by it."""
        recipe = Preprocessing.named("aimclr")
        looked_at = array[:: max(1, len(array) // 32), :, :, self._centre]
        return recipe if array.shape[2] == recipe.frames and not np.count_nonzero(looked_at) else None

    def _read(self, pair: _Pair, group: Sequence[int], fps: float | None) -> list[Clip | ValueError]:
        array = self._checked(pair.array, map_array(pair.array))
        return each(lambda index: self._clip(pair, array[index], index, fps), group)

    def _clip(self, pair: _Pair, numbers: NDArray[Any], index: int, fps: float | None) -> Clip:
        name = pair.names[index]
        padded = numbers.transpose(3, 1, 2, 0)
        trimmed = without_padding(pair.array, name, padded)
        frames = float32_frames(pair.array, name, trimmed if self.applied is None else padded)
        if self.applied is not None and np.count_nonzero(frames[:, :, self._centre]):
            raise FormatError(pair.array, "the spine-shoulder at the origin, as in other clips", f"clip {name!r}")
        subject, camera = ntu_numbers(name)
        return Clip(
            frames,
            self.skeleton,
            label=whole_number(pair.labels_file, f"a label of clip {name!r}", pair.labels[index], MOST_CLASSES),
            name=name,
            fps=fps or (Ntu.fps if subject is not None and self.applied is None else None),
            preprocessing=self.applied,
            subject=subject,
            camera=camera,
        )
