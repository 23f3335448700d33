"""The optimizers' steps as Triton kernels: dense over lists of tensors, and deferred over the rows a batch reads.

`update` in `triton_kernels.py` is the arithmetic of both, so that replayed steps give the bits of dense ones.
"""
