"""The kernels for GPUs: `device` runs the stages of a program with `kernels`, which are written in Triton."""
