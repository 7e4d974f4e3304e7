"""How much of the truth a search finds."""

import numpy as np


def recall_at_k(rows: np.ndarray, true_rows: np.ndarray) -> float:
    """Share of the true nearest rows that were found, over all queries.

    Args:
        rows: Rows found, (Q, K), -1 pads.
        true_rows: The nearest rows, (Q, K), -1 pads, which count for nothing.

    Returns:
        0 to 1; 1 where there is nothing to find.
    """
    every = np.concatenate([rows, true_rows], axis=1).astype(np.int64)
    apart = every + np.arange(len(every))[:, None] * (every.max(initial=0) + 2)
    found, true = apart[:, : rows.shape[1]], apart[:, rows.shape[1] :]
    wanted = true[true_rows >= 0]
    return float(np.isin(wanted, found[rows >= 0]).mean()) if len(wanted) else 1.0
