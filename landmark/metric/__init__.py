"""Metrics on numpy arrays: what the challenges and benchmarks count."""

from landmark.metric import bootstrap, gldv2, recall, relevance, revisited

__all__ = ["bootstrap", "gldv2", "recall", "relevance", "revisited"]
