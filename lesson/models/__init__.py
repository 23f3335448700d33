"""The lesson's models, written in full."""

from lesson.models.collab import EmbeddingDotBias, embedding, sigmoid_range
from lesson.models.mnist import Linear, Mnist_Logistic, Mnist_NN
from lesson.models.net import Dropout, Net
from lesson.models.resnet import ResNet, resnet34
from lesson.models.tabular import TabularModel, emb_sz_rule

__all__ = [
    "Dropout",
    "EmbeddingDotBias",
    "Linear",
    "Mnist_Logistic",
    "Mnist_NN",
    "Net",
    "ResNet",
    "TabularModel",
    "emb_sz_rule",
    "embedding",
    "resnet34",
    "sigmoid_range",
]
