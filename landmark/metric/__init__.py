"""Metrics on numpy arrays: what the challenges and benchmarks count."""

from landmark.metric import gldv2, recall, relevance, revisited

__all__ = ["gldv2", "recall", "relevance", "revisited"]
