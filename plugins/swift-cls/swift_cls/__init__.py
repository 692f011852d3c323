"""The task type ``sequence-classification``: labels and scores of texts."""

__version__ = "0.1.0"
