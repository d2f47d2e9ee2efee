"""The kernels for GPUs.

`device` runs the stages of a program with the functions in `kernels`, which are written in Triton and work on the
`operands`: packed weights, neurons and addends.
"""
