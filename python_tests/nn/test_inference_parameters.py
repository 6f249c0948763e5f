"""What is left of a network's parameters once its norms and edge importance are folded."""

from __future__ import annotations

import torch
from torch import nn

from asma_fast import Skeleton
from asma_fast.nn import (
    STGCN,
    AlignedEncoders,
    Classifier,
    FeatureAlignment,
    Projector,
    inference_parameters,
    synchronise,
)

SKELETON = Skeleton.named("sbu")
V, EDGES = 15, int(torch.from_numpy(SKELETON.pattern("spatial")).sum())


def test_an_encoder_is_its_convolutions_edges_shifts_and_the_affine_map_of_its_input() -> None:
    encoder = STGCN(SKELETON, (4, 6), strides=(1, 2))
    graph = [3 * (3 * 4 + 4), 3 * (4 * 6 + 6)]
    temporal = [4 * 4 * 9 + 4, 6 * 6 * 9 + 6, 4 * 6 + 6]
    assert inference_parameters(encoder) == sum(graph) + sum(temporal) + 2 * EDGES + (4 + 6) + 2 * V * 3
    assert inference_parameters(synchronise(encoder)) == inference_parameters(encoder)


def test_separable_convolutions_leave_no_norm_either() -> None:
    encoder = STGCN(SKELETON, (4,), strides=(1,), separable=True)
    assert inference_parameters(encoder) == 3 * (3 * 4 + 4) + (4 * 9 + 4) + (4 * 4 + 4) + EDGES + 4 + 2 * V * 3


def test_a_norm_after_a_layer_without_bias_becomes_one() -> None:
    assert inference_parameters(Projector(5, 7)) == (5 * 7 + 7) + (7 * 7 + 7) + 7 * 7
    assert inference_parameters(nn.BatchNorm1d(7)) == 14


def test_parts_add_up_and_shared_ones_count_once() -> None:
    first, second = STGCN(SKELETON, (4,), strides=(1,)), STGCN(SKELETON, (6,), strides=(1,))
    alignment = FeatureAlignment((4, 6), width=8)
    model = Classifier(AlignedEncoders(first, second, alignment), 5)
    parts = sum(map(inference_parameters, (first, second, alignment, model.head)))
    assert inference_parameters(model) == parts
    assert inference_parameters(alignment) == sum(p.numel() for p in alignment.parameters())
    twice = AlignedEncoders(first, first, FeatureAlignment((4, 4), mode="concat"))
    assert inference_parameters(twice) == inference_parameters(first)
