"""Losses over landmarks: `loss(embeddings (B, D), labels (B,))` gives a scalar."""

from landmark.loss.adacos import AdaCos
from landmark.loss.adaface import AdaFace
from landmark.loss.arcface import ArcFace
from landmark.loss.combined import CombinedMargin
from landmark.loss.cosface import CosFace
from landmark.loss.curricularface import CurricularFace
from landmark.loss.dynamic_margin import DynamicMargin
from landmark.loss.elasticface import ElasticFace
from landmark.loss.magface import MagFace
from landmark.loss.p2sgrad import P2SGrad
from landmark.loss.softmax import Softmax
from landmark.loss.sphereface import SphereFace
from landmark.loss.subcenter_arcface import SubCenterArcFace

__all__ = [
    "AdaCos",
    "AdaFace",
    "ArcFace",
    "CombinedMargin",
    "CosFace",
    "CurricularFace",
    "DynamicMargin",
    "ElasticFace",
    "MagFace",
    "P2SGrad",
    "Softmax",
    "SphereFace",
    "SubCenterArcFace",
]
