"""How backbone, neck and head learn: optimizer, schedule, learning rates and freezing."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypedDict

import pytorch_lightning as pl
import torch
from pydantic import NonNegativeFloat, NonNegativeInt
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from landmark.error import UserError
from landmark.model.embedder import Embedder
from landmark.settings import checked
from landmark.task import heads
from landmark.task.parameter_groups import LayerDecay, parameter_groups, scale_rates
from landmark.task.schedule import total_steps


class PartOptions(TypedDict, total=False):
    """How the parts of the network learn.

    Attributes:
        backbone_lr: Learning rate of the backbone. Defaults to the optimizer's.
        neck_lr: Learning rate of pooling and neck. Defaults to the optimizer's.
        head_lr: Learning rate of the class centres. Defaults to the optimizer's.
        decay_norms: Apply weight decay to biases and normalisation weights too.
        layer_decay: Ratio of the learning rate of a backbone layer to that of the layer above it.
            None means one rate for the entire backbone.
        freeze_batchnorm: Keep the statistics of the backbone's BatchNorm.
        freeze_backbone_epochs: Number of epochs in which only pooling, neck and head learn.
        freeze_stages: Number of layer groups (stem, stage 1, …) that never learn. They need no
            gradients and store no activations.
    """

    backbone_lr: NonNegativeFloat | None
    neck_lr: NonNegativeFloat | None
    head_lr: NonNegativeFloat | None
    decay_norms: bool
    layer_decay: LayerDecay | None
    freeze_batchnorm: bool
    freeze_backbone_epochs: NonNegativeInt
    freeze_stages: NonNegativeInt


class PartTraining(pl.LightningModule):
    """A LightningModule whose backbone, neck and head have their own learning rates or are frozen.

    Args:
        embedder: Backbone, pooling and neck.
        optimizer: Parameter groups → optimizer.
        schedule: (optimizer, total_steps) → scheduler that steps once per optimizer step.

    See `PartOptions` for the other arguments.
    """

    @checked
    def __init__(
        self,
        embedder: Embedder,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
        backbone_lr: NonNegativeFloat | None = None,
        neck_lr: NonNegativeFloat | None = None,
        head_lr: NonNegativeFloat | None = None,
        decay_norms: bool = True,
        layer_decay: LayerDecay | None = None,
        freeze_batchnorm: bool = False,
        freeze_backbone_epochs: NonNegativeInt = 0,
        freeze_stages: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        self.embedder = embedder
        self._make_optimizer = optimizer
        self._make_schedule = schedule
        self._learning_rates = {"backbone": backbone_lr, "neck": neck_lr, "head": head_lr}
        self._decay_norms = decay_norms
        self._layer_decay = layer_decay
        self._freeze_batchnorm = freeze_batchnorm
        self._freeze_backbone_epochs = freeze_backbone_epochs
        self._frozen_batchnorms = freeze_first_stages(embedder.backbone.model, freeze_stages)

    @property
    def backbone_is_frozen(self) -> bool:
        """Whether the backbone does not learn in the current epoch."""
        return self.current_epoch < self._freeze_backbone_epochs

    def backbone_gradients(self) -> AbstractContextManager:
        """Context of the backbone's forward pass: no gradients while it is frozen."""
        return torch.no_grad() if self.backbone_is_frozen else nullcontext()

    def on_train_epoch_start(self) -> None:
        """Set the training mode; a frozen backbone updates no statistics and has no dropout."""
        self.embedder.train()
        self.embedder.backbone.train(not self.backbone_is_frozen)
        if self._freeze_batchnorm:
            self.embedder.freeze_batchnorm()
        for batchnorm in self._frozen_batchnorms:
            batchnorm.eval()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Create the optimizer, with groups for each part, and its schedule."""
        optimizer = self._make_optimizer(self.parameter_groups())
        scale_rates(optimizer)
        heads.register_optimizer(self, optimizer)
        schedule = self._make_schedule(optimizer, total_steps(self.trainer))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups; everything outside the embedder is head."""
        embedder = self.embedder
        parts: dict[str, list[nn.Module]] = {
            "backbone": [embedder.backbone],
            "neck": [embedder.pooling, embedder.neck],
            "head": [module for module in self.children() if module is not embedder],
        }
        return parameter_groups(parts, self._learning_rates, self._decay_norms, self._layer_decay)


def freeze_first_stages(model: nn.Module, count: int) -> list[nn.Module]:
    """Exclude the first `count` layer groups of a timm model from training.

    The groups are those of timm for layer-wise learning rates: the stem, then each stage.

    Returns:
        The BatchNorm modules in them, which must stay in evaluation mode.

    Raises:
        UserError: The model has no layer groups, or no more than `count`.
    """
    if count == 0:
        return []
    matcher = getattr(model, "group_matcher", None)
    if matcher is None:
        raise UserError("task.freeze_stages: this backbone has no layer groups. Pass 0.")
    groups = group_parameters(model, matcher(coarse=True))
    if count >= len(groups):
        raise UserError(
            f"task.freeze_stages={count}: this backbone has {len(groups)} layer groups. Pass at "
            f"most {len(groups) - 1}."
        )
    frozen = {name for group in sorted(groups)[:count] for name in groups[group]}
    parameters = dict(model.named_parameters())
    for name in frozen:
        parameters[name].requires_grad_(False)
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and f"{name}.weight" in frozen
    ]
