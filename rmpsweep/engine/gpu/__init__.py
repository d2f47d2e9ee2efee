"""GPUs: `device` runs the stages of a program by the `kernels`, which are written in Triton."""
