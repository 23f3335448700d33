"""The optimizers' steps as Triton kernels: dense steps of lists of tensors, deferred steps of the rows a batch reads.

Both use `update` in `triton_kernels.py` for their arithmetic, so replayed steps give the same bits as dense ones.
"""
