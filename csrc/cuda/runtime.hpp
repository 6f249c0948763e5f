// What every CUDA source includes in place of CUDA's own header: a device's functions by nvcc's compiler, or, by the
// host's, the same on an emulated device (csrc/cuda/emulation). Nothing else in a kernel asks which of the two it is.
#pragma once

#if defined(__CUDACC__)
#include "cuda/device.hpp"
#else
#include "cuda/emulation/device.hpp"
#endif
