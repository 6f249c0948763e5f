"""One clip in pictures: its poses, its motion, and what each encoder's views of it lose; or many on one sheet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from asma_fast._files import replacing
from asma_fast.data import Clip, Preprocessing, read_clip
from asma_fast.data.summary import check, summarise
from asma_fast.skeleton import Skeleton
from asma_fast.training.configs import InspectConfig
from asma_fast.training.dataset import open_store
from asma_fast.training.pictures import clip_figure, png, sheet_figure
from asma_fast.training.report import write_page

if TYPE_CHECKING:
    from numpy.typing import NDArray


def inspect(config: InspectConfig) -> Path:
    """Draws the clip that ``config`` names, or a sheet of a store's clips, and returns the picture's, or page's, path.

    Raises
    ------
    ValueError
        If there is no such clip, or it cannot be preprocessed; ``FormatError`` if a raw file is damaged.
    """
    if config.of_store:
        return _sheet(config)
    clip, skeleton = _clip_of(config)
    recipe = clip.preprocessing or Preprocessing.named(config.preprocessing)
    if clip.preprocessing is None and config.frames:
        recipe = replace(recipe, frames=config.frames)
    x = torch.from_numpy(np.ascontiguousarray(recipe(clip, skeleton)))
    label = "" if clip.label is None else f", label {clip.label}"
    title = f"{clip.name or config.path}{label}: {clip.length} frames recorded, {x.shape[1]} shown, {skeleton.name}"
    figure = clip_figure(x, skeleton, config.encoders, config, title=title, seed=config.seed)
    out = config.out or Path("asma-clip.png")
    return _written(out, figure, "clip.html", title=title, encoders=config.encoders)


def _sheet(config: InspectConfig) -> Path:
    store = open_store(config.file)
    places = sheet_places(store.labels)
    clips = {}
    for place in places:
        clip = store[place]
        name = "unlabelled" if clip.label is None else store.classes[clip.label]
        clips[f"{place}: {name}"] = torch.from_numpy(np.ascontiguousarray(clip.frames.transpose(3, 1, 2, 0)))
    title = f"{store.dataset}: {len(places)} of {len(store)} clips, each where it moves most"
    figure = sheet_figure(clips, store.skeleton, title=title)
    out = config.out or Path("asma-clips.png")
    return _written(out, figure, "sheet.html", title=title, summary=summarise(store), findings=check(store))


def sheet_places(labels: NDArray[np.int64], most: int = 24) -> list[int]:
    """Places of up to ``most`` clips: the first of each class, then the second of each, and so on."""
    turns = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        clips = np.flatnonzero(labels == label)
        turns[clips] = np.arange(len(clips))
    order = np.lexsort((labels, turns))[:most]
    return [int(place) for place in order]


def _written(out: Path, figure: Figure, template: str, *, title: str, **values: Any) -> Path:
    if out.suffix.lower() == ".html":
        write_page(out, template, title=title, figure=figure, **values)
    else:
        with replacing(out) as temporary:
            temporary.write_bytes(png(figure))
    return out


def _clip_of(config: InspectConfig) -> tuple[Clip, Skeleton]:
    if config.dataset is not None:
        clip = read_clip(config.file, config.dataset)
        return clip, Skeleton.named(clip.skeleton)
    store = open_store(config.file)
    index = config.index or 0
    if index >= len(store):
        raise ValueError(f"index must be below {len(store)}, the clips of {config.path}; got {index}")
    return store[index], store.skeleton
