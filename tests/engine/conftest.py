"""Kernels for GPUs run in Triton's interpreter here: it must be asked for before they are imported."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
