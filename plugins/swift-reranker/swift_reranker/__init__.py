"""The task type ``reranker``: one score for a query and a document."""

__version__ = "0.1.0"
