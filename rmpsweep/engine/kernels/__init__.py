"""What runs once per neuron and step: compiled for the CPU with Numba (`cpu`), for GPUs with Triton (`triton`)."""
