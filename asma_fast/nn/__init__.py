"""Networks over skeleton clips, as ordinary ``torch.nn`` modules on the package's ops."""

from __future__ import annotations

from asma_fast.nn._ranks import RankError
from asma_fast.nn.aligned_encoders import AlignedEncoders
from asma_fast.nn.barlow_twins import barlow_twins_loss
from asma_fast.nn.block import STGCNBlock
from asma_fast.nn.classifier import Classifier
from asma_fast.nn.distillation import distillation_loss
from asma_fast.nn.feature_alignment import FeatureAlignment
from asma_fast.nn.graph_conv import GraphConv
from asma_fast.nn.inference_parameters import inference_parameters
from asma_fast.nn.input_norm import InputNorm
from asma_fast.nn.projector import Projector
from asma_fast.nn.stgcn import STGCN
from asma_fast.nn.synchronise import synchronise
from asma_fast.nn.temporal_conv import TemporalConv

__all__ = [
    "STGCN",
    "AlignedEncoders",
    "Classifier",
    "FeatureAlignment",
    "GraphConv",
    "InputNorm",
    "Projector",
    "RankError",
    "STGCNBlock",
    "TemporalConv",
    "barlow_twins_loss",
    "distillation_loss",
    "inference_parameters",
    "synchronise",
]
