"""The lesson's models, written in full."""

from lesson.models.collab import EmbeddingDotBias, embedding, sigmoid_range
from lesson.models.mnist import Linear, Mnist_Logistic, Mnist_NN
from lesson.models.net import Dropout, Net
from lesson.models.tabular import TabularModel, emb_sz_rule

__all__ = [
    "Dropout",
    "EmbeddingDotBias",
    "Linear",
    "Mnist_Logistic",
    "Mnist_NN",
    "Net",
    "TabularModel",
    "emb_sz_rule",
    "embedding",
    "sigmoid_range",
]
