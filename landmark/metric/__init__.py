"""Metrics of landmark retrieval and recognition: plain functions of numpy arrays."""

from landmark.metric import bootstrap, gldv2, position, recall, relevance, revisited

__all__ = ["bootstrap", "gldv2", "position", "recall", "relevance", "revisited"]
