"""Nearest-neighbour search by inner product: `search.build(gallery)` → index → rows, scores."""

from landmark.search.auto import Auto
from landmark.search.exact_torch import ExactTorch
from landmark.search.factory import Factory
from landmark.search.flat import Flat
from landmark.search.hnsw import HNSW
from landmark.search.ivf import IVF
from landmark.search.ivfpq import IVFPQ
from landmark.search.rabitq import RaBitQ

__all__ = ["HNSW", "IVF", "IVFPQ", "Auto", "ExactTorch", "Factory", "Flat", "RaBitQ"]
