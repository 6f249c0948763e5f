"""A call that skips the dispatcher is one that the dispatcher would not have touched."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from asma_fast import View
from asma_fast.ops import gather_view
from asma_fast.ops._op import undispatched

FRAMES = View(frames=torch.tensor([[2, 0]], dtype=torch.int32))


class Subclass(torch.Tensor):
    pass


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def x():
    return torch.randn(1, 3, 4, 5, 1)


def test_plain_tensors_and_numbers_skip_it(x):
    assert undispatched((x, None, 3, 0.5, True, torch.nn.Parameter(x, requires_grad=False), torch.tensor(1)))
    with torch.no_grad():
        assert undispatched((x.requires_grad_(),))
    with torch.inference_mode():
        assert undispatched((torch.zeros(2),))


def test_whatever_is_marked_is_dispatched(x):
    others = {
        "grad": x.clone().requires_grad_(),
        "negative": torch._neg_view(x),
        "conjugate": torch.zeros(2, dtype=torch.complex64).conj(),
        "sparse": torch.zeros(2).to_sparse(),
        "meta": torch.zeros(2, device="meta"),
        "zero": torch._efficientzerotensor(2),
        "functional": torch._to_functional_tensor(x),
        "fake": FakeTensorMode().from_tensor(x),
        "subclass": x.as_subclass(Subclass),
        "list": [x],
    }
    assert [name for name, value in others.items() if undispatched((x, value))] == []


def test_modes_and_transforms_are_dispatched(x):
    found = []

    def ask(value):
        found.append(undispatched((x,)))
        return value

    torch.func.vmap(ask)(x)
    torch.func.grad(lambda value: ask(value).sum())(x)
    torch.func.functionalize(ask)(x)
    with torch.autograd.forward_ad.dual_level(), torch.device("cpu"):
        ask(x)
    with torch.device("cpu"):
        ask(x)
    with Recorder():
        ask(x)
    with torch.profiler.profile():
        ask(x)
    assert found == [False] * 7


def test_modes_and_profiles_see_the_op(x):
    with Recorder() as recorder:
        gather_view(x, FRAMES)
    assert "asma_fast.gather_view.default" in recorder.seen
    with torch.profiler.profile() as profile:
        gather_view(x, FRAMES)
    assert "asma_fast::gather_view" in {event.name for event in profile.events()}


def test_a_lazy_negative_is_read_as_its_value(x):
    assert torch.equal(gather_view(torch._neg_view(x), FRAMES), -gather_view(x, FRAMES))
