"""Memory of large results is kept for the next ones, and nobody can tell but by the clock."""

from __future__ import annotations

import gc
import io
import os
import random
import threading

import pytest
import torch
from programs import program_output

from asma_fast import View, ops
from asma_fast._array import empty, empty_channels_last
from asma_fast._backends import native

MB = 2**20
LIKE = torch.zeros(1)


def large(megabytes, value=None):
    tensor = empty((megabytes, MB // 4), LIKE)
    return tensor if value is None else tensor.fill_(value)


@pytest.fixture(autouse=True)
def nothing_left():
    gc.collect()
    used, _ = native().pool_size()
    yield
    gc.collect()
    assert native().pool_size()[0] == used


def test_memory_is_used_again():
    first = large(8)
    address = first.data_ptr()
    del first
    assert large(8).data_ptr() == address


def test_small_results_are_not_pooled():
    before = native().pool_size()
    kept = empty((MB // 4,), LIKE)
    assert native().pool_size() == before
    del kept


@pytest.mark.parametrize("shape", [(40, 16, 50, 25), (20, 3, 300, 25, 2), (1, 1, 1, 1, 600_000)])
def test_shape_and_strides_are_those_of_any_other(shape):
    pooled = empty_channels_last(shape, LIKE)
    plain = empty_channels_last(shape, torch.zeros(1, dtype=torch.int32))
    assert pooled.data_ptr() % (2 * MB) == 0
    assert pooled.shape == plain.shape
    assert pooled.stride() == plain.stride()
    assert pooled.dtype == torch.float32


def test_never_holds_more_than_was_once_in_use():
    """Within a process of its own, which has used nothing yet."""
    done = program_output(
        "import random, torch, asma_fast.ops\n"
        "from asma_fast._array import empty\n"
        "from asma_fast._backends import native\n"
        "chance, like, kept, most = random.Random(0), torch.zeros(1), [], 0\n"
        "for _ in range(300):\n"
        "    if kept and chance.random() < 0.5:\n"
        "        kept.pop(chance.randrange(len(kept)))\n"
        "    else:\n"
        "        kept.append(empty((chance.choice([2, 3, 5, 8, 13]), 2**18), like))\n"
        "    used, idle = native().pool_size()\n"
        "    most = max(most, used)\n"
        "    assert used + idle <= most, (used, idle, most)\n"
        "print(most > 0)"
    )
    assert done == "True"


def test_results_alive_never_share_memory():
    chance = random.Random(1)
    kept = {}
    for number in range(200):
        if len(kept) > 6:
            value, tensor = kept.popitem() if chance.random() < 0.5 else (min(kept), kept.pop(min(kept)))
            assert bool((tensor == value).all())
        kept[number] = large(chance.choice([2, 3, 4]), number)
    assert all(bool((tensor == value).all()) for value, tensor in kept.items())


def test_a_view_keeps_its_memory():
    whole = large(4, 7)
    part = whole[1:2]
    del whole
    other = large(4, 9)
    assert bool((part == 7).all())
    del other


def test_may_be_freed_on_any_thread():
    box = [large(4, 1)]
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()


def test_many_threads_at_once():
    wrong = []

    def work(number):
        for turn in range(50):
            tensor = large(2 + turn % 3, number)
            if not bool((tensor == number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_deterministic_mode_still_fills_results():
    large(4, 1)
    torch.use_deterministic_algorithms(True)
    try:
        assert bool(large(4).isnan().all())
    finally:
        torch.use_deterministic_algorithms(False)


def test_results_are_ordinary_tensors():
    x = torch.randn(80, 3, 50, 25, 2, requires_grad=True)
    read = ops.gather_view(x, View())
    y = ops.temporal_conv(read[..., 0], torch.randn(16, 3, 3), padding=1)
    assert y.data_ptr() % (2 * MB) == 0
    y.mul_(2)  # in place, under autograd
    y.sum().backward()
    assert x.grad is not None
    file = io.BytesIO()
    torch.save(y.detach(), file)
    file.seek(0)
    assert torch.equal(torch.load(file), y)
    shared = y.detach().clone(memory_format=torch.preserve_format).share_memory_()
    assert torch.equal(shared, y)
    assert torch.equal(y.detach().share_memory_(), shared)
    with torch.inference_mode():
        assert ops.temporal_conv(read[..., 0].detach(), torch.randn(16, 3, 3)).is_inference()


def test_an_unread_capsule_gives_its_memory_back():
    capsule = native().pooled_tensor((4, MB // 4), (0, 1), native().DType.float32)
    assert native().pool_size()[0] >= 4 * MB
    del capsule


@pytest.mark.parametrize(
    ("shape", "order"), [((2, 3), (0,)), ((2, 3), (0, 2)), ((2, 3), (1, 1)), ((1,) * 7, tuple(range(7)))]
)
def test_native_entry_refuses_what_is_no_shape(shape, order):
    with pytest.raises(ValueError, match="axes"):
        native().pooled_tensor(shape, order, native().DType.float32)


def test_native_entry_refuses_a_size_beyond_64_bits():
    with pytest.raises(ValueError, match="63 bits"):
        native().pooled_tensor((2**40, 2**40), (0, 1), native().DType.float32)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_its_own():
    mine = large(4, 3)
    child = os.fork()
    if child == 0:
        theirs = large(4)
        theirs.numpy()[:] = 5
        mine.numpy()[:] = 6
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert bool((mine == 3).all())


def test_can_be_switched_off():
    done = program_output(
        "import os\n"
        "os.environ['ASMA_MEMORY_POOL'] = '0'\n"
        "import torch, asma_fast.ops\n"
        "from asma_fast._array import empty\n"
        "from asma_fast._backends import native\n"
        "tensor = empty((2**21,), torch.zeros(1))\n"
        "print(native().pool_size())"
    )
    assert done == "(0, 0)"


def test_gives_back_what_lies_idle():
    """Within a process of its own, for it waits for the pool's patience to end."""
    done = program_output(
        "import time, torch, asma_fast.ops\n"
        "from asma_fast._array import empty\n"
        "from asma_fast._backends import native\n"
        "empty((2**22,), torch.zeros(1))\n"
        "assert native().pool_size() == (0, 2**24)\n"
        "time.sleep(5.5)\n"
        "other = empty((2**20,), torch.zeros(1))\n"
        "print(native().pool_size())"
    )
    assert done == f"({4 * MB}, 0)"
