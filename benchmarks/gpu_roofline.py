"""From bytes and FLOPs to a time that a device is predicted to take, by assumptions that stand here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gpu_traffic import Kernel

#: Shares of the data sheet's figures that a kernel is taken to reach.
MEMORY, TENSOR_CORES, CORES = 0.85, 0.60, 0.60
#: Seconds from one kernel's start to the next one's, at least.
LAUNCH = 4e-6
#: Sides of a product narrower than this leave a part of the tensor cores idle, in proportion.
FULL_WIDTH = 64
PRECISIONS = ("float32", "TF32", "bfloat16")


@dataclass(frozen=True)
class Device:
    """Figures of a data sheet, dense products, sums in float32.

    Parameters
    ----------
    name
        As sold.
    memory
        Bytes a second.
    flop
        FLOPs a second by precision of the factors; float32: without tensor cores.
    """

    name: str
    memory: float
    flop: dict[str, float]

    def ceiling(self, kernels: Iterable[Kernel], precision: str) -> float:
        """Seconds that no code with this traffic and these products goes below: all of both limits, no launches."""
        moved, flop = (sum(values) for values in zip(*((one.moved, one.flop) for one in kernels), strict=True))
        return max(moved / self.memory, flop / self.flop[precision])

    def seconds(self, kernels: Iterable[Kernel], precision: str, launch: float = LAUNCH) -> float:
        """Predicted: one kernel after the other."""
        return sum(max(launch, self._kernel(one, precision)) for one in kernels)

    def _kernel(self, kernel: Kernel, precision: str) -> float:
        reached = CORES if precision == "float32" else TENSOR_CORES * min(1, kernel.width / FULL_WIDTH)
        products = kernel.flop / (self.flop[precision] * reached) if kernel.flop else 0.0
        # A product too narrow for tensor cores is done without them.
        products = min(products, kernel.flop / (self.flop["float32"] * CORES))
        return max(kernel.moved / (self.memory * MEMORY), products)


H100 = Device("H100 SXM", 3.35e12, {"float32": 67e12, "TF32": 495e12, "bfloat16": 989e12})
RTX_4090 = Device("RTX 4090", 1.008e12, {"float32": 82.6e12, "TF32": 82.6e12, "bfloat16": 165.2e12})
DEVICES = (H100, RTX_4090)
