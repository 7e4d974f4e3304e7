"""Poolings: feature map to vector.

A pooling is a module (B, C, h, w) → (B, C'). If it needs more than the last map, it sets the class
attribute `takes = "features"` and is called with the backbone's features: `maps` (those of the
stages in its attribute `stages`, each (B, C_i, h_i, w_i), finest first) and `class_token` ((B, C),
or None if the backbone has none). One whose weights depend on the number of channels creates them
in its first forward pass, with PyTorch's lazy layers; `build_embedder` runs that pass. One that
needs more than 64 cells gives their number in the attribute `least_cells`. A new pooling is one
file here and one YAML in conf/pooling.
"""

from landmark.pooling.boq import BoQ
from landmark.pooling.class_token import ClassToken, ClassTokenAndGeM
from landmark.pooling.dolg import DOLG
from landmark.pooling.gem import GeM
from landmark.pooling.mac import MAC
from landmark.pooling.regional_gem import RegionalGeM
from landmark.pooling.rmac import RMAC
from landmark.pooling.salad import SALAD
from landmark.pooling.spoc import SPoC
from landmark.pooling.stages import Stages

__all__ = [
    "DOLG",
    "MAC",
    "RMAC",
    "SALAD",
    "BoQ",
    "ClassToken",
    "ClassTokenAndGeM",
    "GeM",
    "RegionalGeM",
    "SPoC",
    "Stages",
]
