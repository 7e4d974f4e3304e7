"""Batches of one aspect group in a fixed order, for going through a table once."""

import numpy as np
from numpy.typing import NDArray

from landmark.device import usable_cpus


def grouped_batches(
    groups: NDArray[np.integer], batch_size: int, num_replicas: int = 1, rank: int = 0
) -> list[NDArray[np.int64]]:
    """Return every row once, in batches whose photos share a group and can be stacked.

    Rows ascend within a batch, and batches come in the order of their first rows, so that
    neighbours in the table are read together. With several processes each row is in the batches
    of exactly one of them, and their numbers of rows differ by one at most.

    Args:
        groups: aspect group of each row, (N,).
        batch_size: rows a batch at most; the last of a group may be smaller.
        num_replicas: number of processes.
        rank: this process, 0 ... num_replicas - 1.
    """
    by_group = np.argsort(groups, kind="stable")
    own = by_group[rank::num_replicas]
    batches = []
    for group in np.unique(groups[own]):
        rows = own[groups[own] == group]
        batches += [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return sorted(batches, key=lambda rows: int(rows[0]))


def default_workers(most: int = 8) -> int:
    """Return one decoding process for each usable CPU, at most `most`."""
    return min(most, usable_cpus())
