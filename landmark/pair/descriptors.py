"""Checks of the local descriptors that pair models take."""

from torch import Tensor

from landmark.error import UserError


def check_dim(rows: Tensor, dim: int) -> None:
    """Check the dimension of descriptors (…, D).

    Raises:
        UserError: It is not `dim`.

    Example:
        >>> import torch
        >>> check_dim(torch.zeros(3, 64), 64)
    """
    if rows.shape[-1] != dim:
        raise UserError(
            f"the descriptors have {rows.shape[-1]} dimensions, and the pair model takes {dim}. "
            "Pass the local features that it was fitted on."
        )


def without_padding(rows: Tensor, padding: Tensor | None) -> Tensor:
    """Return descriptors (B, n, D) with zeros at the padding (B, n), so that its content is unused.

    Raises:
        ValueError: The shapes do not match.

    Example:
        >>> import torch
        >>> without_padding(torch.ones(1, 2, 1), torch.tensor([[False, True]])).tolist()
        [[[1.0], [0.0]]]
    """
    if padding is None:
        return rows
    if padding.shape != rows.shape[:2]:
        raise ValueError(f"padding {tuple(padding.shape)} of descriptors {tuple(rows.shape)}")
    return rows.masked_fill(padding[:, :, None], 0)
