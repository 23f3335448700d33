"""Triton kernels run in Triton's interpreter here: on CPU tensors, without a GPU."""

import os

# Triton reads this when it is imported, once a process: interpreted and compiled kernels cannot share one.
# On a GPU, TRITON_INTERPRET=0 in the environment tests the compiled kernels instead.
os.environ.setdefault("TRITON_INTERPRET", "1")
