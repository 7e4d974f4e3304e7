"""Which classes take part in a step."""

import math

import torch
from torch import Tensor


def draw(columns: Tensor, count: int, ratio: float) -> Tensor:
    """A random share of the classes in which the photos' own are.

    Args:
        columns: the photos' own classes, (B,); negative ones are none of these classes.
        count: number C of classes.
        ratio: share of the classes, in (0, 1]; more where the photos' own are more.

    Returns:
        Classes, ascending, (max(⌈ratio · C⌉, own),).

    Source:
        An et al., Partial FC, 2020, arXiv 2010.05222, section 3.3.
    """
    own = columns[columns >= 0].unique()
    wanted = math.ceil(ratio * count)
    if len(own) >= wanted:
        return own
    order = torch.rand(count, device=columns.device)
    order[own] = 2.0  # above all that is drawn
    return order.topk(wanted, sorted=False).indices.sort().values
