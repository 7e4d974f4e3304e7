"""Geometric verification: do two photos show the same place, judged by their local features?

Two photos' local features → matches (`match`) → a geometric model that explains some of them, and
a score. `Verifier` is the whole way from two photos to a score, `verify_pairs` verifies a table of
pairs, `threshold` says which scores are evidence, and `Evidence` combines several of them.
"""

from landmark.verify.evidence import WEIGHTS, Evidence, log_score
from landmark.verify.features import Features
from landmark.verify.lightglue import LightGlueVerifier
from landmark.verify.matching import match
from landmark.verify.null import null_pairs, random_pairs
from landmark.verify.pairs import PairScores, verify_pairs
from landmark.verify.patches import PatchVerifier
from landmark.verify.threshold import threshold
from landmark.verify.verifier import Verification, Verifier

__all__ = [
    "WEIGHTS",
    "Evidence",
    "Features",
    "LightGlueVerifier",
    "PairScores",
    "PatchVerifier",
    "Verification",
    "Verifier",
    "log_score",
    "match",
    "null_pairs",
    "random_pairs",
    "threshold",
    "verify_pairs",
]
