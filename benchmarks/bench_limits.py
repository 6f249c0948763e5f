"""What the machine gives: matrix products and copies, to hold every other row against."""

import pytest
import torch
from race import limit

SIDE = 1024
COPIED = 64 * 2**20


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["sgemm"])
def test_matrix_product(race, name, threads):
    def start():
        a, b, out = (torch.randn(SIDE, SIDE) for _ in range(3))
        return {name: limit(lambda: torch.mm(a, b, out=out))}

    race(name, f"machine: sgemm {SIDE}³, {threads} threads", start, threads=threads, amounts={"GFLOP": 2e-9 * SIDE**3})


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["copy"])
def test_copy(race, name, threads):
    """Bytes read and bytes written, memory warm: well outside the caches."""

    def start():
        source, target = torch.randn(COPIED // 4), torch.zeros(COPIED // 4)
        return {name: limit(lambda: target.copy_(source))}

    group = f"machine: copy {COPIED >> 20} MB, {threads} threads"
    race(name, group, start, threads=threads, amounts={"GB": 2e-9 * COPIED})
