"""Database-side augmentation: the gallery's descriptors, each smoothed over its neighbours."""

from landmark.disk.temporary import temporary_array
from landmark.rerank.expansion import alpha_weights, expand
from landmark.rerank.retrieval import Retrieval
from landmark.rerank.setting import number, whole_number

_ROWS_AT_ONCE = 65536


class DBA:
    """Database-side feature augmentation (Arandjelović and Zisserman 2012; Gordo et al. 2017).

    Each gallery descriptor becomes the sum over its n nearest gallery descriptors x, itself among
    them, of max(cosine, 0)^alpha x, of unit length, and the new gallery is searched. (Arandjelović
    and Zisserman, "Three things everyone should know to improve object retrieval", section 4,
    weigh all alike, alpha = 0; the weights are those of alpha query expansion.) To expand the
    queries too, put `alpha_qe` before or after it in the chain.

    The new gallery has the old one's dtype; a large one lies in a temporary file.

    Args:
        n: Descriptors in a sum, the photo itself among them.
        alpha: Exponent of the weights.

    Raises:
        UserError: A setting is out of its range.
    """

    def __init__(self, n: int = 10, alpha: float = 3.0) -> None:
        self.n = whole_number("rerank.dba.n", n, 1)
        self.alpha = number("rerank.dba.alpha", alpha, 0)

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Augment the gallery and search it; gallery, rows and scores are new."""
        gallery = retrieval.gallery
        augmented = temporary_array(gallery.shape, gallery.dtype)
        weights = alpha_weights(self.alpha)
        for first in range(0, len(gallery), _ROWS_AT_ONCE):
            block = slice(first, first + _ROWS_AT_ONCE)
            rows, _ = retrieval.search(gallery[block], gallery, self.n)
            expand(gallery[block], gallery, rows, weights, include=False, out=augmented[block])
        return retrieval.searched(gallery=augmented)
