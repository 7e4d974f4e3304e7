"""The LightningModule that trains an embedder, and its validation by retrieval."""

from landmark.task.retrieval import RetrievalTask

__all__ = ["RetrievalTask"]
