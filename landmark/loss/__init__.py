"""Losses over landmarks: `loss(embeddings (B, D), labels (B,))` returns a scalar."""

from landmark.loss.adacos import AdaCos
from landmark.loss.adaface import AdaFace
from landmark.loss.arcface import ArcFace
from landmark.loss.circle import Circle
from landmark.loss.combined import CombinedMargin
from landmark.loss.contrastive import Contrastive
from landmark.loss.cosface import CosFace
from landmark.loss.curricularface import CurricularFace
from landmark.loss.distil import Distil
from landmark.loss.dynamic_margin import DynamicMargin
from landmark.loss.elasticface import ElasticFace
from landmark.loss.fast_ap import FastAP
from landmark.loss.magface import MagFace
from landmark.loss.multi_similarity import MultiSimilarity
from landmark.loss.p2sgrad import P2SGrad
from landmark.loss.recall_at_k import RecallAtK
from landmark.loss.smooth_ap import SmoothAP
from landmark.loss.softmax import Softmax
from landmark.loss.sphereface import SphereFace
from landmark.loss.subcenter_arcface import SubCenterArcFace
from landmark.loss.supcon import SupCon
from landmark.loss.triplet import Triplet
from landmark.loss.xbm import XBM

__all__ = [
    "XBM",
    "AdaCos",
    "AdaFace",
    "ArcFace",
    "Circle",
    "CombinedMargin",
    "Contrastive",
    "CosFace",
    "CurricularFace",
    "Distil",
    "DynamicMargin",
    "ElasticFace",
    "FastAP",
    "MagFace",
    "MultiSimilarity",
    "P2SGrad",
    "RecallAtK",
    "SmoothAP",
    "Softmax",
    "SphereFace",
    "SubCenterArcFace",
    "SupCon",
    "Triplet",
]
