"""What a training run does for its head: shares the centres out, saves, resumes and clips them."""

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

# In a checkpoint; the second is what is trained where the first holds averaged weights.
_WEIGHTS = ("state_dict", "current_model_state")


def served(task: nn.Module) -> Iterator[tuple[str, MarginLoss, Head]]:
    """Name of the centres in `task`, loss and head, of every loss that has a head."""
    for name, loss in task.named_modules():
        if isinstance(loss, MarginLoss) and isinstance(loss.head, Head):
            yield f"{name}.weight", loss, loss.head


def shared_out(task: nn.Module) -> list[tuple[str, MarginLoss, Head]]:
    """Those of which each process holds other centres."""
    return [(name, loss, head) for name, loss, head in served(task) if head.is_sharded()]


def refuse_processes(task: nn.Module, trainer: pl.Trainer) -> None:
    """Refuses, before anything starts, processes that a head cannot serve.

    Raises:
        UserError: names the head and what to choose.
    """
    for _, _, head in served(task):
        head.check_world_size(trainer.world_size)
    known = isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy)
    if shared_out(task) and not known:
        raise UserError("head=class_parallel: needs trainer.strategy=ddp, or one process")


def place(task: nn.Module) -> None:
    """Leaves each process its share of the centres, and has DDP let them be."""
    for _, loss, head in served(task):
        head.shard_weights(loss)
    if names := [name for name, _, _ in shared_out(task)]:
        task._ddp_params_and_buffers_to_ignore = names  # type: ignore[assignment]


def follow(task: nn.Module, optimizer: Optimizer) -> None:
    """Tells the heads of the optimizer."""
    for _, loss, head in served(task):
        head.register_optimizer(loss, optimizer)


def bring_together(task: nn.Module, groups: Iterable[dict], checkpoint: dict[str, Any]) -> None:
    """Makes the checkpoint of a process that of a run whose centres are all in one place.

    Weights, averaged weights and what the optimizer keeps of them. Every process must take part;
    the first one has the result.

    Args:
        task: what is trained.
        groups: the optimizer's parameter groups.
        checkpoint: of this process; changed in place.
    """
    for name, loss, head in shared_out(task):
        place, shape = _place(loss, groups), loss.weight.shape
        _replace(checkpoint, name, place, shape, partial(head.gather, loss))


def share_out(task: nn.Module, groups: Iterable[dict], checkpoint: dict[str, Any]) -> None:
    """Leaves in a checkpoint of all centres this process's share, whatever number wrote it.

    Args:
        task: what is trained.
        groups: parameter groups as the optimizer's.
        checkpoint: of all centres; changed in place.
    """
    for name, loss, head in shared_out(task):
        place = _place(loss, groups)
        shape = torch.Size((loss.num_classes * loss.sub_centres, loss.weight.shape[1]))
        _replace(checkpoint, name, place, shape, partial(_own_copy, head, loss))


def clip_by_norm(task: nn.Module, optimizer: Optimizer, longest: float) -> None:
    """Clips the norm of all gradients to `longest`, those of other processes' centres included."""
    centres = {id(loss.weight) for _, loss, _ in shared_out(task)}
    others = {id(member) for member in task.parameters()} - centres
    members = [member for group in optimizer.param_groups for member in group["params"]]
    common = [m.grad for m in members if m.grad is not None and id(m) in others]
    # A step of sampled rows has another parameter in the centres' place.
    own = [m.grad for m in members if m.grad is not None and id(m) not in others]
    squares = total(get_total_norm(own).square()) + get_total_norm(common).square()
    clip_grads_with_norm_(members, longest, squares.sqrt())


def _place(loss: MarginLoss, groups: Iterable[dict]) -> int:
    """Number of the centres among the optimizer's parameters."""
    members = [member for group in groups for member in group["params"]]
    return next(place for place, member in enumerate(members) if member is loss.weight)


def _own_copy(head: Head, loss: MarginLoss, rows: Tensor) -> Tensor:
    return head.shard(loss, rows).clone()


def _replace(
    checkpoint: dict[str, Any],
    name: str,
    place: int,
    shape: torch.Size,
    change: Callable[[Tensor], Tensor],
) -> None:
    """Changes whatever a checkpoint holds of the centres, tensors of `shape`."""
    for key in _WEIGHTS:
        if key in checkpoint and checkpoint[key][name].shape == shape:
            checkpoint[key][name] = change(checkpoint[key][name])
    for of_optimizer in checkpoint.get("optimizer_states", []):
        kept = of_optimizer["state"].get(place, {})
        # The optimizer at work holds these very dictionaries: another takes the place.
        of_optimizer["state"][place] = {
            key: change(kept[key])
            if isinstance(kept[key], Tensor) and kept[key].shape == shape
            else kept[key]
            for key in sorted(kept)
        }
