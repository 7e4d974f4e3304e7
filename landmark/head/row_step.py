"""Optimizer steps that touch only some rows of a parameter."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer


class RowStep:
    """Have an optimizer step only the rows of `parameter` that have a gradient.

    After a backward pass with a sparse gradient, a smaller parameter with these rows, their
    gradient and their slice of the optimizer's state replaces `parameter` in the optimizer; after
    the optimizer's step the rows are written back. Any element-wise optimizer (SGD with momentum,
    AdamW …) thus treats these rows exactly as those of a dense parameter; the other rows keep
    their values and state, and cost no time. Gradients of several backward passes accumulate.
    Counters such as Adam's `step` count steps of the optimizer, not of a row. Between steps the
    optimizer, the parameter and checkpoints have their usual form.

    Source:
        An et al., Killing Two Birds with One Stone: Efficient and Robust Training of Face
        Recognition CNNs by Partial FC, CVPR 2022, arXiv 2203.15565, and its published code.

    Args:
        parameter: (R, D).
        optimizer: Optimizer with `parameter` in one of its groups.
    """

    def __init__(self, parameter: Parameter, optimizer: Optimizer) -> None:
        self._parameter = parameter
        self._optimizer = optimizer
        self._members, self._slot = next(
            (group["params"], slot)
            for group in optimizer.param_groups
            for slot, member in enumerate(group["params"])
            if member is parameter
        )
        self._index: Tensor | None = None
        parameter.register_post_accumulate_grad_hook(self._swap_in)
        optimizer.register_step_post_hook(self._write_back)

    @torch.no_grad()
    def _swap_in(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None or not gradient.is_sparse:
            return
        parameter.grad = None
        index, values = gradient._indices()[0], gradient._values()
        previous = self._members[self._slot]
        if self._index is not None and previous.grad is not None:
            summed = torch.sparse_coo_tensor(
                torch.cat([self._index, index])[None],
                torch.cat([previous.grad, values]),
                parameter.shape,
                check_invariants=False,
            ).coalesce()
            index, values = summed.indices()[0], summed.values()
        if self._index is not None:
            self._optimizer.state.pop(previous, None)
        rows = Parameter(parameter.detach()[index])
        rows.grad = values
        self._index, self._members[self._slot] = index, rows
        state = self._optimizer.state.get(parameter)
        if state:
            self._optimizer.state[rows] = {
                name: value[index] if self._has_rows(value, parameter) else value
                for name, value in state.items()
            }

    @torch.no_grad()
    def _write_back(self, optimizer: Optimizer, *_: object) -> None:
        if self._index is None:
            return
        rows, index, parameter = self._members[self._slot], self._index, self._parameter
        parameter.index_copy_(0, index, rows.detach())
        stepped = optimizer.state.pop(rows, {})
        state: dict[str, Any] = optimizer.state[parameter]
        for name, value in stepped.items():
            if self._has_rows(value, rows):
                if name not in state:
                    state[name] = value.new_zeros(parameter.shape)
                state[name].index_copy_(0, index, value)
            else:
                state[name] = value
        self._members[self._slot], self._index = parameter, None

    @staticmethod
    def _has_rows(value: object, parameter: Tensor) -> bool:
        return isinstance(value, Tensor) and value.shape == parameter.shape
