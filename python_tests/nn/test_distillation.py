"""The distillation loss is its definition, at its limits too; and it teaches the student alone."""

from __future__ import annotations

import math

import pytest
import torch

from asma_fast.nn import distillation_loss


def logits(n: int, k: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(n, k, generator=generator, dtype=torch.float64)).to(dtype)


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    parts = [math.exp(value - top) for value in row]
    return [part / sum(parts) for part in parts]


def definition(student: torch.Tensor, teacher: torch.Tensor, labels: list[int], t: float, alpha: float) -> float:
    """One number at a time, in Python's own float64."""
    total = 0.0
    for s, q, label in zip(student.tolist(), teacher.tolist(), labels, strict=True):
        p, r = softmax([value / t for value in q]), softmax([value / t for value in s])
        divergence = sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, r, strict=True))
        total += alpha * t**2 * divergence - (1 - alpha) * math.log(softmax(s)[label])
    return total / len(labels)


@pytest.mark.parametrize("t", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize(("n", "k"), [(1, 2), (5, 3), (4, 60)])
def test_it_is_the_definition(n: int, k: int, alpha: float, t: float) -> None:
    student, teacher, labels = logits(n, k, 0), logits(n, k, 1), torch.arange(n) % k
    loss = distillation_loss(student, teacher, labels, temperature=t, alpha=alpha)
    assert float(loss) == pytest.approx(definition(student, teacher, labels.tolist(), t, alpha), rel=1e-12)
    single = distillation_loss(student.float(), teacher.float(), labels, temperature=t, alpha=alpha)
    assert float(single) == pytest.approx(float(loss), rel=1e-4, abs=1e-5)


def test_at_its_limits_one_of_the_two_does_not_matter() -> None:
    student, teacher = logits(6, 4, 0), logits(6, 4, 1)
    labels, others = torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.int64)
    taught = distillation_loss(student, teacher, labels, alpha=1)
    assert torch.equal(taught, distillation_loss(student, teacher, others, alpha=1))
    assert torch.equal(taught, distillation_loss(student, teacher))
    told = distillation_loss(student, teacher, labels, alpha=0)
    assert torch.equal(told, torch.nn.functional.cross_entropy(student, labels))
    assert torch.equal(told, distillation_loss(student, student, labels, alpha=0))


def test_without_labels_alpha_is_no_factor() -> None:
    student, teacher = logits(6, 4, 0), logits(6, 4, 1)
    assert torch.equal(distillation_loss(student, teacher, alpha=0.2), distillation_loss(student, teacher))


def test_a_high_temperature_is_half_the_squared_distance_of_centred_logits() -> None:
    """Hinton et al., 2015, section 2.1: the loss then matches logits, over the number of classes."""
    student, teacher = logits(8, 5, 0), logits(8, 5, 1)
    centred = [part - part.mean(1, keepdim=True) for part in (student, teacher)]
    wanted = (centred[0] - centred[1]).square().sum(1).mean() / (2 * 5)
    found = distillation_loss(student, teacher, temperature=1e4)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=0)


def test_the_gradient_is_the_students_alone_and_right() -> None:
    student, teacher = logits(4, 3, 0).requires_grad_(), logits(4, 3, 1).requires_grad_()
    labels = torch.tensor([0, 2, 1, 1])
    distillation_loss(student, teacher, labels).backward()
    assert teacher.grad is None
    assert torch.autograd.gradcheck(lambda z: distillation_loss(z, teacher, labels), (student,))
    assert torch.autograd.gradcheck(lambda z: distillation_loss(z, teacher), (student,))


def test_a_student_that_says_the_same_has_nothing_to_learn() -> None:
    student = logits(4, 7, 0).requires_grad_()
    loss = distillation_loss(student, student.detach())
    loss.backward()
    assert abs(float(loss.detach())) < 1e-15
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-15


def test_half_precision_is_computed_in_single() -> None:
    student, teacher = logits(9, 5, 0, torch.bfloat16), logits(9, 5, 1, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = distillation_loss(student, teacher.float(), torch.arange(9) % 5)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, distillation_loss(student.float(), teacher.float(), torch.arange(9) % 5))


def test_what_does_not_fit_is_refused() -> None:
    student, labels = logits(4, 3, 0), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="teacher must have shape"):
        distillation_loss(student, logits(4, 2, 1))
    with pytest.raises(ValueError, match="labels must have shape"):
        distillation_loss(student, student, labels[:3])
    with pytest.raises(TypeError, match="labels must be int64"):
        distillation_loss(student, student, labels.float())
    with pytest.raises(ValueError, match="there must be clips and classes"):
        distillation_loss(student[:0], student[:0])
    with pytest.raises(ValueError, match=r"temperature must be above 0, got 0"):
        distillation_loss(student, student, temperature=0)
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\], got 1.5"):
        distillation_loss(student, student, alpha=1.5)
