"""Triton kernels of the ops, a file a stem: each op is a function of its name that fills the allocated outputs."""
