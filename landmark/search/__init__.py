"""Nearest neighbours by inner product: `search(query, gallery, k)` gives rows and scores."""

from landmark.search.flat import Flat

__all__ = ["Flat"]
