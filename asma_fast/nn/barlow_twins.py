"""The Barlow Twins loss."""

from __future__ import annotations

import torch
from torch import Tensor

from asma_fast.ops._contract import FLOATS, check_alike, check_dtype, check_shape


def barlow_twins_loss(z1: Tensor, z2: Tensor, off_diagonal: float = 2e-4) -> Tensor:
    """Barlow Twins loss (Zbontar et al., ICML 2021), as PSTL computes it.

    ``Σ_i (c_ii − 1)² + off_diagonal · Σ_{i≠j} c_ij²`` with ``C = Z1ᵀ Z2 / N``, the features z-scored over the batch by
    their biased variance plus 1e-5. Where 2·N < D the D×D matrix is never built:
    ``Σ_ij c_ij² = ⟨Z1 Z1ᵀ, Z2 Z2ᵀ⟩ / N²`` costs two N×N products.

    Parameters
    ----------
    z1, z2
        ``(N, D)``: two projections of the same N clips. Computed in float32 at least, also under autocast. A
        distributed run passes the features gathered over all ranks: the statistics are the global batch's.
    off_diagonal
        Weight of the off-diagonal sum.

    Returns
    -------
    Tensor of shape ()
        Differentiable in both.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or devices disagree, or the batch has fewer than two clips.

    Examples
    --------
    >>> z = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    >>> round(float(barlow_twins_loss(z, z)), 6)
    0.0
    """
    check_shape("z1", z1, "N D")
    check_dtype("z1", z1, FLOATS)
    n, d = z1.shape
    check_shape("z2", z2, "N D", N=n, D=d)
    check_alike("z2", z2, "z1", z1)
    if n < 2:
        raise ValueError(f"z1 and z2 must hold at least 2 clips to be z-scored over the batch, got {n}")
    with torch.autocast(z1.device.type, enabled=False):
        first, second = _z_scored(z1), _z_scored(z2)
        if 2 * n < d:
            diagonal = (first * second).sum(0) / n
            others = ((first @ first.T) * (second @ second.T)).sum() / n**2 - diagonal.square().sum()
        else:
            correlation = first.T @ second / n
            diagonal = correlation.diagonal()
            others = (correlation - diagonal.diag()).square().sum()
        return (diagonal - 1).square().sum() + off_diagonal * others


def _z_scored(z: Tensor) -> Tensor:
    if z.dtype in (torch.float16, torch.bfloat16):
        z = z.float()
    variance, mean = torch.var_mean(z, dim=0, correction=0)
    return (z - mean) * torch.rsqrt(variance + 1e-5)
