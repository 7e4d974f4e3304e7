"""Local features: photo to keypoints with their descriptors.

A local feature is called as `feature(photo)` with pixels (H, W, 3) in uint8 RGB and returns
`LocalFeatures`. Its attributes `dim`, `dtype` and `columns` (of keypoints.npy: x, y, scale, angle)
are the layout of its store. One with `from_maps` is computed from the embedder's feature map
instead (see `Patches`). `BackgroundPool` compares features with those of other photos. A new local
feature is one file here and one YAML in conf/local.
"""

from landmark.artifact.local_features import LocalFeatures
from landmark.local.aliked import ALIKED
from landmark.local.background import BackgroundPool, pool_rows
from landmark.local.patches import Patches
from landmark.local.rootsift import RootSIFT
from landmark.local.xfeat import XFeat

__all__ = [
    "ALIKED",
    "BackgroundPool",
    "LocalFeatures",
    "Patches",
    "RootSIFT",
    "XFeat",
    "pool_rows",
]
