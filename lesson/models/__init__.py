"""The lesson's models, written in full."""

from lesson.models.collab import EmbeddingDotBias, embedding, sigmoid_range
from lesson.models.mnist import Linear, Mnist_Logistic, Mnist_NN

__all__ = ["EmbeddingDotBias", "Linear", "Mnist_Logistic", "Mnist_NN", "embedding", "sigmoid_range"]
