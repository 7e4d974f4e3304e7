"""Optimal transport between two sets of local features, and what it says of a pair."""

import numpy as np
from numpy.typing import NDArray


def transport(
    similarities: NDArray[np.float32],
    dust: float = 0.0,
    temperature: float = 10.0,
    iterations: int = 10,
) -> NDArray[np.float32]:
    """Share the mass of each feature among the features of the other photo.

    Every row and every column has the mass 1. What a feature does not give to the other photo's
    features goes to the dust, a further row and column with one similarity for all, whose masses
    are the numbers of columns and rows.

    Args:
        similarities: (n, m) similarity of each pair of features.
        dust: Similarity of each feature to the dust: pairs below it get little mass.
        temperature: Factor of the similarities in the exponent.
        iterations: Number of row and column steps (Sinkhorn). The last is a column step, so the
            columns sum to at most 1, and the rows only in the limit.

    Returns:
        (n, m) transported mass.

    Source:
        Sarlin et al.: SuperGlue. CVPR 2020, section 3.2, with the constant factor of ELViS (ICLR
        2026, arXiv 2603.28603).

    Example:
        >>> mass = transport(np.array([[0.9, -0.9], [-0.9, -0.9]], np.float32))
        >>> [[round(value, 2) for value in row] for row in mass.tolist()]
        [[0.93, 0.0], [0.0, 0.0]]
    """
    n, m = similarities.shape
    kernel = np.exp(np.float32(temperature) * similarities)
    to_dust = np.float32(np.exp(temperature * dust))
    rows, row_dust = np.ones(n, np.float32), np.float32(1)
    columns, column_dust = np.ones(m, np.float32), np.float32(1)
    for _ in range(iterations):
        rows = 1 / (kernel @ columns + to_dust * column_dust)
        row_dust = m / (to_dust * (columns.sum() + column_dust))
        columns = 1 / (rows @ kernel + to_dust * row_dust)
        column_dust = n / (to_dust * (rows.sum() + row_dust))
    kernel *= rows[:, None]
    kernel *= columns
    return kernel
