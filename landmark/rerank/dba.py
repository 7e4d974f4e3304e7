"""Database-side augmentation: each gallery descriptor is smoothed over its neighbours."""

from typing import Annotated

import numpy as np
from pydantic import Field, PositiveInt

from landmark.artifact.vectors import row_blocks
from landmark.disk.temporary import temporary_array
from landmark.rerank.expansion import alpha_weights, expand, expansion_block
from landmark.rerank.parallel import across_ranks
from landmark.rerank.retrieval import Retrieval
from landmark.settings import checked

_SEARCHED_ROWS, _EXPANDED_ROWS = 65536, 4096


class DBA:
    """Database-side feature augmentation (Arandjelović and Zisserman 2012; Gordo et al. 2017).

    Each gallery descriptor becomes the sum over its n nearest gallery descriptors x, including
    itself, of max(cosine, 0)^alpha x, normalised to unit length, and the augmented gallery is
    searched. The weights are those of alpha query expansion; alpha = 0 weights all equally, as in
    Arandjelović and Zisserman, "Three things everyone should know to improve object retrieval",
    section 4. To expand the queries too, put `alpha_qe` before or after it in the chain.

    The augmented gallery keeps the dtype; a large one is stored in a temporary file.

    Args:
        n: Descriptors per sum, including the photo itself.
        alpha: Exponent of the weights.

    Example:
        >>> from landmark.search import Flat
        >>> angles = np.radians([0, 22, 42, 60, -35, -40, -45])
        >>> photos = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        >>> retrieval = Retrieval.from_search(photos[:1], photos[1:], k=6, search=Flat())
        >>> retrieval.rows.tolist(), DBA(n=3)(retrieval).rows.tolist()
        ([[0, 3, 4, 1, 5, 2]], [[0, 3, 4, 5, 1, 2]])
    """

    @checked
    def __init__(
        self, n: PositiveInt = 10, alpha: Annotated[float, Field(ge=0, le=1000)] = 3.0
    ) -> None:
        self.n = n
        self.alpha = alpha

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Augment the gallery and search it; replaces gallery, index, rows and scores."""
        gallery = retrieval.gallery
        augmented = temporary_array(gallery.shape, gallery.dtype)
        for searched in row_blocks(len(gallery), _SEARCHED_ROWS):
            rows, _ = retrieval.index.search(gallery[searched], min(self.n, len(gallery)))
            for block in row_blocks(searched.stop, _EXPANDED_ROWS, searched.start):
                near = rows[block.start - searched.start : block.stop - searched.start]
                augmented[block] = self._augmented(gallery[block], gallery, near)
        return retrieval.searched(gallery=augmented)

    def _augmented(self, photos: np.ndarray, gallery: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Return the augmented descriptors (B, D) of photos with neighbours (B, n)."""

        def expanded(part: slice) -> tuple[np.ndarray]:
            weights = alpha_weights(self.alpha)
            summed = expand(photos[part], gallery, near[part], weights, include=False)
            return (summed.astype(gallery.dtype, copy=False),)

        return across_ranks(len(near), expanded, expansion_block(gallery, self.n))[0]
