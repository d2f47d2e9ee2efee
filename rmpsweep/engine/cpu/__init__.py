"""The kernels for CPUs.

`device` runs the stages of a program with the functions in `strips` (integers) and `kernels` (floating point, pooling,
counting). These are written in vectors (`lanes`, `gather`), share the neuron's law (`update`), read weights and
constants in the order that `pack` and `tables` put them in, and use the memory of a `workspace`.
"""
