"""The loss by which a teacher's logits teach a student."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from asma_fast.ops._contract import FLOATS, check_dtype, check_shape, check_together


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor | None = None, *, temperature: float = 1.0, alpha: float = 0.5
) -> Tensor:
    """Temperature-scaled distillation (Hinton et al., 2015): what the teacher says of all classes, and the true one.

    ``α·T²·KL(softmax(teacher/T) ‖ softmax(student/T)) + (1 − α)·cross_entropy(student, labels)``, means over the clips.
    T² keeps the gradient's size as the temperature grows. T = 1 and α = 0.5 are this package's choice,
    on inner splits of two small sets (``benchmarks/accuracy/RESULTS.md``).

    Parameters
    ----------
    student, teacher
        ``(N, K)`` logits of the same clips and classes. Computed in float32 at least, also under autocast.
    labels
        ``(N,)`` int64 in [0, K). None: label-free, the first term alone, with weight 1 whatever ``alpha`` is.
    temperature
        T, above 0: the higher, the more the teacher's order of the unlikely classes counts.
    alpha
        In [0, 1]. At 1 labels do not matter, at 0 the teacher does not.

    Returns
    -------
    Tensor of shape ()
        Differentiable in ``student`` alone.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or devices disagree, there are no clips, or a number is out of range.

    Examples
    --------
    >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
    >>> float(distillation_loss(logits, logits))
    0.0
    """
    check_shape("student", student, "N K")
    check_dtype("student", student, FLOATS)
    n, k = student.shape
    check_shape("teacher", teacher, "N K", N=n, K=k)
    check_dtype("teacher", teacher, FLOATS)
    check_together("teacher", teacher, "student", student)
    if n == 0 or k == 0:
        raise ValueError(f"there must be clips and classes, got logits of shape {(n, k)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    if labels is not None:
        check_shape("labels", labels, "N", N=n)
        check_dtype("labels", labels, ("int64",))
    with torch.autocast(student.device.type, enabled=False):
        wide = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        student, teacher = student.to(wide), teacher.detach().to(wide)
        losses = []
        if labels is None or alpha > 0:
            divergence = functional.kl_div(
                functional.log_softmax(student / temperature, dim=1),
                functional.log_softmax(teacher / temperature, dim=1),
                reduction="batchmean",
                log_target=True,
            )
            losses.append((1.0 if labels is None else alpha) * temperature**2 * divergence)
        if labels is not None and alpha < 1:
            losses.append((1 - alpha) * functional.cross_entropy(student, labels))
        return torch.stack(losses).sum()
