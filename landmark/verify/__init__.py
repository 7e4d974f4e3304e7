"""Geometric verification: do two photos show the same place, judged by their local features?

Two photos' local features → matches (`match`) → a geometric model that explains some of them, and
a score. `Verifier` is the whole way from two photos to a score.
"""

from landmark.verify.features import Features
from landmark.verify.lightglue import LightGlueVerifier
from landmark.verify.matching import match
from landmark.verify.pairs import PairScores, verify_pairs
from landmark.verify.verifier import Verification, Verifier

__all__ = [
    "Features",
    "LightGlueVerifier",
    "PairScores",
    "Verification",
    "Verifier",
    "match",
    "verify_pairs",
]
