"""Fast ops for embedding-dot-bias models: each with a reference, a CPU-native and a Triton implementation."""

from .adam import FASTAI, TORCH, AdamConstants, adam_step_
from .backends import BackendError, available
from .deferred import (
    DeferredAdam,
    DeferredAdamW,
    DeferredEmbedding,
    DeferredEmbeddingBag,
    DeferredRMSprop,
    DeferredSGD,
    attach,
)
from .dot_bias import dot_bias_loss, embedding_dot_bias

__all__ = [
    "FASTAI",
    "TORCH",
    "AdamConstants",
    "BackendError",
    "DeferredAdam",
    "DeferredAdamW",
    "DeferredEmbedding",
    "DeferredEmbeddingBag",
    "DeferredRMSprop",
    "DeferredSGD",
    "adam_step_",
    "attach",
    "available",
    "dot_bias_loss",
    "embedding_dot_bias",
]
