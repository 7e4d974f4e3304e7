"""What a training run does for its heads: shard, checkpoint and clip the class centres."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from landmark.error import UserError
from landmark.head.head import Head
from landmark.loss.margin import MarginLoss
from landmark.processes import total

# Keys of a checkpoint; with weight averaging the first has the averaged, the second the trained
# weights.
_WEIGHTS = ("state_dict", "current_model_state")


def losses_with_head(task: nn.Module) -> Iterator[tuple[str, MarginLoss, Head]]:
    """Yield (name of the class centres, loss, head) of every loss that has a head."""
    for name, loss in task.named_modules():
        if isinstance(loss, MarginLoss) and isinstance(loss.head, Head):
            yield f"{name}.weight", loss, loss.head


def sharded(task: nn.Module) -> list[tuple[str, MarginLoss, Head]]:
    """Return the losses with a head whose class centres are sharded across ranks."""
    return [(name, loss, head) for name, loss, head in losses_with_head(task) if head.is_sharded()]


def check_trainer(task: nn.Module, trainer: pl.Trainer) -> None:
    """Check that the heads support the trainer's processes, device and strategy.

    Raises:
        UserError: A head does not support them; names it and what to pass.
    """
    for _, _, head in losses_with_head(task):
        head.check_world_size(trainer.world_size)
        head.check_device(trainer.strategy.root_device)
    is_supported = isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy)
    if sharded(task) and not is_supported:
        raise UserError(
            "head=class_parallel supports one process or DDP. Pass trainer.strategy=ddp."
        )


def shard_weights(task: nn.Module) -> None:
    """Shard class centres across ranks and exclude them from DDP."""
    for _, loss, head in losses_with_head(task):
        head.shard_weights(loss)
    if names := [name for name, _, _ in sharded(task)]:
        task._ddp_params_and_buffers_to_ignore = names  # type: ignore[assignment]


def register_optimizer(task: nn.Module, optimizer: Optimizer) -> None:
    """Register the optimizer with every head."""
    for _, loss, head in losses_with_head(task):
        head.register_optimizer(loss, optimizer)


def gather_checkpoint(task: nn.Module, groups: Iterable[dict], checkpoint: dict[str, Any]) -> None:
    """Gather sharded centres so that the checkpoint is independent of world size.

    Gathers weights, averaged weights and their optimizer state. Every rank must call this; rank 0
    gets the result.

    Args:
        task: Module in training.
        groups: Parameter groups of the optimizer.
        checkpoint: Checkpoint of this rank; changed in place.
    """
    for name, loss, head in sharded(task):
        index, shape = _parameter_index(loss, groups), loss.weight.shape
        _replace_centres(checkpoint, name, index, shape, partial(head.gather, loss))


def shard_checkpoint(task: nn.Module, groups: Iterable[dict], checkpoint: dict[str, Any]) -> None:
    """Reduce gathered centres to this rank's shard: the inverse of `gather_checkpoint`.

    Args:
        task: Module in training.
        groups: Parameter groups of the optimizer.
        checkpoint: Checkpoint with all centres, of any world size; changed in place.
    """
    for name, loss, head in sharded(task):
        index = _parameter_index(loss, groups)
        shape = torch.Size((loss.num_classes * loss.sub_centres, loss.weight.shape[1]))
        _replace_centres(checkpoint, name, index, shape, partial(_copied_shard, head, loss))


def clip_by_norm(task: nn.Module, optimizer: Optimizer, max_norm: float) -> None:
    """Clip the norm of all gradients, including those of other ranks' class centres."""
    centres = {id(loss.weight) for _, loss, _ in sharded(task)}
    replicated = {id(parameter) for parameter in task.parameters()} - centres
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shared_gradients = [p.grad for p in parameters if p.grad is not None and id(p) in replicated]
    # A head that samples rows replaces the centres by a temporary parameter in each step.
    own_gradients = [p.grad for p in parameters if p.grad is not None and id(p) not in replicated]
    squares = total(get_total_norm(own_gradients).square())
    squares = squares + get_total_norm(shared_gradients).square()
    clip_grads_with_norm_(parameters, max_norm, squares.sqrt())


def _parameter_index(loss: MarginLoss, groups: Iterable[dict]) -> int:
    """Return the index of the class centres among the optimizer's parameters."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    return next(index for index, parameter in enumerate(parameters) if parameter is loss.weight)


def _copied_shard(head: Head, loss: MarginLoss, rows: Tensor) -> Tensor:
    return head.shard(loss, rows).clone()


def _replace_centres(
    checkpoint: dict[str, Any],
    name: str,
    index: int,
    shape: torch.Size,
    replace: Callable[[Tensor], Tensor],
) -> None:
    """Replace every tensor of `shape` that a checkpoint contains for the class centres."""
    for key in _WEIGHTS:
        if key in checkpoint and checkpoint[key][name].shape == shape:
            checkpoint[key][name] = replace(checkpoint[key][name])
    for optimizer_state in checkpoint.get("optimizer_states", []):
        state = optimizer_state["state"].get(index, {})
        # The running optimizer shares these dictionaries: assign a new one.
        optimizer_state["state"][index] = {
            key: replace(state[key])
            if isinstance(state[key], Tensor) and state[key].shape == shape
            else state[key]
            for key in sorted(state)
        }
