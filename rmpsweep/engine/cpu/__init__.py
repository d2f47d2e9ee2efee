"""The kernels for CPUs.

`device` runs the stages of a program with the functions in `kernels`. These are written in vectors (`lanes`), read
weights in the order that `pack` puts them in, and use the memory of a `workspace`.
"""
