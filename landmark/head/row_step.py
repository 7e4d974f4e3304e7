"""Optimizer steps for some rows of a parameter alone."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer


class RowStep:
    """Lets an optimizer step only the rows of `parameter` that have a gradient.

    After a backward pass with a sparse gradient, a smaller parameter of these rows, with their
    gradient and their share of the optimizer's state, takes the place of `parameter` in the
    optimizer, and after its step the rows go back. Any optimizer that treats elements alike (SGD
    with momentum, AdamW …) so does for these rows exactly what it would do for a dense parameter;
    the other rows keep value, momentum and all, and no time is spent on them. Gradients of several
    backward passes add up. Counters such as Adam's `step` count steps of the optimizer, not of a
    row. Between steps optimizer and parameter look as ever: that is what checkpoints hold.

    Source:
        An et al., Killing Two Birds with One Stone: Efficient and Robust Training of Face
        Recognition CNNs by Partial FC, CVPR 2022, arXiv 2203.15565, and its published code.

    Args:
        parameter: (R, D).
        optimizer: has `parameter` in one of its groups.
    """

    def __init__(self, parameter: Parameter, optimizer: Optimizer) -> None:
        self._parameter = parameter
        self._optimizer = optimizer
        self._members, self._place = next(
            (group["params"], place)
            for group in optimizer.param_groups
            for place, member in enumerate(group["params"])
            if member is parameter
        )
        self._index: Tensor | None = None
        parameter.register_post_accumulate_grad_hook(self._take)
        optimizer.register_step_post_hook(self._give_back)

    @torch.no_grad()
    def _take(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None or not gradient.is_sparse:
            return
        parameter.grad = None
        index, values = gradient._indices()[0], gradient._values()
        earlier = self._members[self._place]
        if self._index is not None and earlier.grad is not None:
            both = torch.sparse_coo_tensor(
                torch.cat([self._index, index])[None],
                torch.cat([earlier.grad, values]),
                parameter.shape,
                check_invariants=False,
            ).coalesce()
            index, values = both.indices()[0], both.values()
        if self._index is not None:
            self._optimizer.state.pop(earlier, None)
        rows = Parameter(parameter.detach()[index])
        rows.grad = values
        self._index, self._members[self._place] = index, rows
        state = self._optimizer.state.get(parameter)
        if state:
            self._optimizer.state[rows] = {
                name: value[index] if self._is_of_rows(value, parameter) else value
                for name, value in state.items()
            }

    @torch.no_grad()
    def _give_back(self, optimizer: Optimizer, *_: object) -> None:
        if self._index is None:
            return
        rows, index, parameter = self._members[self._place], self._index, self._parameter
        parameter.index_copy_(0, index, rows.detach())
        stepped = optimizer.state.pop(rows, {})
        whole: dict[str, Any] = optimizer.state[parameter]
        for name, value in stepped.items():
            if self._is_of_rows(value, rows):
                if name not in whole:
                    whole[name] = value.new_zeros(parameter.shape)
                whole[name].index_copy_(0, index, value)
            else:
                whole[name] = value
        self._members[self._place], self._index = parameter, None

    @staticmethod
    def _is_of_rows(value: object, parameter: Tensor) -> bool:
        return isinstance(value, Tensor) and value.shape == parameter.shape
