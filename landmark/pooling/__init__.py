"""Poolings: feature map to vector.

A pooling is a module (B, C, h, w) → (B, C'). If it needs more than the last map, it sets the class
attribute `takes = "features"` and is called with the backbone's features: `maps` (those of the
stages in its attribute `stages`, each (B, C_i, h_i, w_i), finest first) and `class_token` ((B, C),
or None if the backbone has none). A new pooling is one file here and one YAML in conf/pooling.
"""

from landmark.pooling.class_token import ClassToken, ClassTokenAndGeM
from landmark.pooling.gem import GeM
from landmark.pooling.mac import MAC
from landmark.pooling.rmac import RMAC
from landmark.pooling.spoc import SPoC
from landmark.pooling.stages import Stages

__all__ = ["MAC", "RMAC", "ClassToken", "ClassTokenAndGeM", "GeM", "SPoC", "Stages"]
