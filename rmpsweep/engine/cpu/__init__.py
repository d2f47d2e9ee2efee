"""The CPU: `device` runs the stages of a program by the `kernels`, which are written in vectors of `lanes`, on
weights as `pack` orders them and in the memory of a `workspace`."""
