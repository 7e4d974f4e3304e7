"""Re-rankers: `reranker(retrieval)` returns a re-ranked retrieval; they chain in any order."""

from landmark.rerank.alpha_qe import AlphaQE
from landmark.rerank.ames import AMES
from landmark.rerank.aqe_decay import AQEDecay
from landmark.rerank.chamfer import Chamfer
from landmark.rerank.dba import DBA
from landmark.rerank.diffusion import Diffusion
from landmark.rerank.egt import EGT
from landmark.rerank.elvis import ELViS
from landmark.rerank.k_reciprocal import KReciprocal
from landmark.rerank.online_diffusion import OnlineDiffusion
from landmark.rerank.rank_fusion import RankFusion
from landmark.rerank.spatial import Spatial
from landmark.rerank.superglobal import SuperGlobal
from landmark.rerank.two_stage import TwoStage

__all__ = [
    "AMES",
    "DBA",
    "EGT",
    "AQEDecay",
    "AlphaQE",
    "Chamfer",
    "Diffusion",
    "ELViS",
    "KReciprocal",
    "OnlineDiffusion",
    "RankFusion",
    "Spatial",
    "SuperGlobal",
    "TwoStage",
]
