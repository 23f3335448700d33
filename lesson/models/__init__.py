"""The lesson's models, written in full."""

from lesson.models.collab import EmbeddingDotBias, embedding, sigmoid_range
from lesson.models.mnist import Linear, Mnist_Logistic, Mnist_NN
from lesson.models.net import Dropout, Net
from lesson.models.resnet import ResNet, resnet34

__all__ = [
    "Dropout",
    "EmbeddingDotBias",
    "Linear",
    "Mnist_Logistic",
    "Mnist_NN",
    "Net",
    "ResNet",
    "embedding",
    "resnet34",
    "sigmoid_range",
]
