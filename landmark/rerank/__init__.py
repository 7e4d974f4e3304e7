"""Re-rankers: `reranker(retrieval)` gives a better retrieval; they chain in any order."""

from landmark.rerank.alpha_qe import AlphaQE
from landmark.rerank.dba import DBA
from landmark.rerank.two_stage import TwoStage

__all__ = ["DBA", "AlphaQE", "TwoStage"]
