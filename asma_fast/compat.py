"""Checkpoints of ST-GCN, AimCLR and PSTL, loaded into this package's modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from asma_fast.nn import STGCN, Classifier

_ANCHOR = "st_gcn_networks.0.gcn.conv.weight"
_STATISTICS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
# What the published programs save beside an encoder: momentum encoders and queues of the contrastive ones, other
# streams, projectors and heads.
_BESIDE = re.compile(
    r"(module\.)?(encoder_[qk](_motion|_bone)?|queue(_ptr)?(_motion|_bone)?|queue_ptr|fcn?|head|classifier|linear"
    r"|projector|btwins_head|bn)(\.|$)"
)


def load_stgcn_state_dict(
    model: STGCN | Classifier, state_dict: Mapping[str, Tensor], *, prefix: str | None = None
) -> tuple[str, ...]:
    """Load a checkpoint of ST-GCN (yysijie/st-gcn, mmskeleton), AimCLR or PSTL, whole or not at all.

    The model then gives the outputs and gradients of the original network (``bodies="mean"``, dropout 0 or eval mode),
    on whole clips, on removed frames and, as PSTL's network does, on removed joints. Strides are in no checkpoint: a
    model with other strides than the original's loads wherever the shapes agree.

    Parameters
    ----------
    model
        An encoder, or a classifier, whose head takes the checkpoint's ``fc`` or ``fcn``.
    state_dict
        Names to tensors, as ``torch.load(path, weights_only=True)`` gives them; where the file wraps them
        (``{"state_dict": …}``), the inner mapping.
    prefix
        What stands before ``st_gcn_networks`` in the names. None: found; of a momentum pair the query encoder
        (``encoder_q.``) is taken.

    Returns
    -------
    tuple of str
        The names that were ignored on purpose: momentum encoder, queue, projector, and the head where the model has
        none.

    Raises
    ------
    TypeError
        If ``model`` is neither or ``state_dict`` maps to something else than tensors.
    ValueError
        If a name is missing or unknown, a shape differs, the buffer ``A`` is not the model's adjacency, or more than
        one encoder could be meant. The model is then as it was.

    Examples
    --------
    >>> from asma_fast import Skeleton
    >>> from asma_fast.nn import STGCN
    >>> encoder = STGCN(Skeleton.named("ntu-rgb+d"))
    >>> load_stgcn_state_dict(encoder, torch.load("pstl.pt", weights_only=True))  # doctest: +SKIP
    ()
    """
    import torch

    from asma_fast.nn import STGCN, Classifier

    if not isinstance(model, STGCN | Classifier):
        raise TypeError(f"model must be an STGCN or a Classifier, got {type(model).__name__}")
    for name, value in state_dict.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"state_dict must map names to tensors, got {type(value).__name__} at {name!r}")
    encoder = model.encoder if isinstance(model, Classifier) else model
    if not isinstance(encoder, STGCN):
        raise TypeError(f"model must have one STGCN as its encoder, got {type(encoder).__name__}")
    if prefix is None:
        prefix = _find_prefix(state_dict)
    source = {name[len(prefix) :]: value for name, value in state_dict.items() if name.startswith(prefix)}
    outside = [name for name in state_dict if not name.startswith(prefix)]
    ignored = [name for name in outside if _BESIDE.match(name)]
    problems = [f"unknown name {name}" for name in outside if name not in ignored]

    names = _encoder_names(encoder, source)
    if isinstance(model, Classifier):
        head = "fcn" if "fcn.weight" in source else "fc"
        names = {original: f"encoder.{ours}" for original, ours in names.items()}
        names |= {f"{head}.weight": "head.weight", f"{head}.bias": "head.bias"}
    else:
        heads = [name for name in source if re.match(r"fcn?\.", name)]
        ignored += [prefix + name for name in heads]
        source = {name: value for name, value in source.items() if name not in heads}

    target = model.state_dict()
    adjacency = source.pop("A", None)
    problems += _adjacency_problems(encoder, adjacency)
    problems += [f"unknown name {prefix}{name}" for name in source if name not in names]
    loaded: dict[str, Tensor] = {}
    for original, ours in names.items():
        wanted = target[ours]
        if original in source:
            value = source[original]
            if tuple(value.shape) == _published_shape(original, wanted):
                loaded[ours] = value.detach().reshape(wanted.shape).to(wanted.dtype)
            else:
                shape = _published_shape(original, wanted)
                problems.append(f"{prefix}{original} must have shape {shape}, got {tuple(value.shape)}")
        elif original.endswith("num_batches_tracked"):
            loaded[ours] = torch.zeros_like(wanted)  # checkpoints older than PyTorch 0.4.1 have none
        else:
            problems.append(f"missing name {prefix}{original}")
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise ValueError(f"the checkpoint does not fit the model, nothing was loaded: {shown}")
    if not any(name.startswith("edge_importance.") for name in source):
        loaded |= {
            name: torch.ones_like(value)
            for name, value in target.items()
            if name.endswith("graph_conv.edge_importance")
        }
    model.load_state_dict(loaded)
    return tuple(ignored)


def _find_prefix(state_dict: Mapping[str, Tensor]) -> str:
    found = sorted(name.removesuffix(_ANCHOR) for name in state_dict if name.endswith(_ANCHOR))
    if not found:
        some = ", ".join(list(state_dict)[:4])
        raise ValueError(f"state_dict must hold an ST-GCN (…{_ANCHOR}), got names such as: {some or 'none at all'}")
    if len(found) > 1:
        queries = [prefix for prefix in found if prefix.endswith("encoder_q.")]
        if len(queries) != 1:
            raise ValueError(f"state_dict holds several encoders; choose one by prefix: {', '.join(map(repr, found))}")
        return queries[0]
    return found[0]


def _encoder_names(encoder: STGCN, source: Mapping[str, Tensor]) -> dict[str, str]:
    """Published name → name in ``encoder.state_dict()``. Networks trained without edge importance have none."""
    names = {f"data_bn.{field}": f"input_norm.{field}" for field in _STATISTICS}
    weighted = any(name.startswith("edge_importance.") for name in source)
    for index, block in enumerate(encoder.blocks):
        theirs, ours = f"st_gcn_networks.{index}", f"blocks.{index}"
        if weighted:
            names[f"edge_importance.{index}"] = f"{ours}.graph_conv.edge_importance"
        for field in ("weight", "bias"):
            names[f"{theirs}.gcn.conv.{field}"] = f"{ours}.graph_conv.{field}"
            names[f"{theirs}.tcn.2.{field}"] = f"{ours}.temporal_conv.{field}"
        for field in _STATISTICS:
            names[f"{theirs}.tcn.0.{field}"] = f"{ours}.norm1.{field}"
            names[f"{theirs}.tcn.3.{field}"] = f"{ours}.norm2.{field}"
        residual = [name.removeprefix("residual.") for name in block.state_dict() if name.startswith("residual.")]
        names |= {f"{theirs}.residual.{field}": f"{ours}.residual.{field}" for field in residual}
    return names


def _published_shape(original: str, ours: Tensor) -> tuple[int, ...]:
    """The shape that our tensor has in the published networks, which flatten axes or pad them with ones."""
    shape = tuple(ours.shape)
    if original.startswith("data_bn.") and ours.ndim == 2:
        return (shape[0] * shape[1],)
    if ".gcn.conv." in original:
        return (shape[0] * shape[1], *shape[2:], *((1, 1) if ours.ndim == 3 else ()))
    if original.endswith((".tcn.2.weight", ".residual.0.weight")):
        return (*shape, 1)
    return (*shape, 1, 1) if original == "fcn.weight" else shape


def _adjacency_problems(encoder: STGCN, adjacency: Tensor | None) -> list[str]:
    ours = encoder.skeleton.adjacency(encoder.partition)
    if adjacency is None:
        return ["missing buffer A, the adjacency"]
    if tuple(adjacency.shape) != ours.shape:
        return [f"A must have shape {ours.shape}, got {tuple(adjacency.shape)}"]
    gap = float(abs(adjacency.detach().cpu().double().numpy() - ours).max())
    if not gap <= 1e-6:
        return [
            f"A must be the {encoder.partition} adjacency of skeleton {encoder.skeleton.name!r}, "
            f"got one that differs by up to {gap:.3g}"
        ]
    return []
