"""One clip in pictures: its poses, its motion, and what each encoder's views of it lose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from asma_fast.data import Clip, Preprocessing, read_clip
from asma_fast.skeleton import Skeleton
from asma_fast.training.checkpoint import replacing
from asma_fast.training.configs import InspectConfig
from asma_fast.training.dataset import open_store
from asma_fast.training.pictures import clip_figure, png
from asma_fast.training.report import write_page


def inspect(config: InspectConfig) -> Path:
    """Draws the clip that ``config`` names and returns the picture's, or page's, path.

    Raises
    ------
    ValueError
        If there is no such clip, or it cannot be preprocessed; ``FormatError`` if a raw file is damaged.
    """
    clip, skeleton = _clip_of(config)
    recipe = clip.preprocessing or Preprocessing.named(config.preprocessing)
    if clip.preprocessing is None and config.frames:
        recipe = replace(recipe, frames=config.frames)
    x = torch.from_numpy(np.ascontiguousarray(recipe(clip, skeleton)))
    label = "" if clip.label is None else f", label {clip.label}"
    title = f"{clip.name or config.path}{label}: {clip.length} frames recorded, {x.shape[1]} shown, {skeleton.name}"
    figure = clip_figure(x, skeleton, config.encoders, config, title=title, seed=config.seed)
    if config.out.suffix.lower() == ".html":
        write_page(config.out, "clip.html", title=title, figure=figure, encoders=config.encoders)
    else:
        with replacing(config.out) as temporary:
            temporary.write_bytes(png(figure))
    return config.out


def _clip_of(config: InspectConfig) -> tuple[Clip, Skeleton]:
    if config.path is None:
        raise ValueError("name a store, or a raw file and its --dataset")
    if config.dataset is not None:
        clip = read_clip(config.path, config.dataset)
        return clip, Skeleton.named(clip.skeleton)
    store = open_store(config.path)
    if config.index >= len(store):
        raise ValueError(f"index must be below {len(store)}, the clips of {config.path}; got {config.index}")
    return store[config.index], store.skeleton
