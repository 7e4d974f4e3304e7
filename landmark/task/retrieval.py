"""The LightningModule: an embedder and a loss, trained, and validated by retrieval."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from landmark.error import UserError
from landmark.loss.auxiliary import AuxiliaryLosses
from landmark.model.embedder import Embedder
from landmark.task import heads
from landmark.task.blending import check_share
from landmark.task.freezing import freeze_first_stages
from landmark.task.imprinting import imprint
from landmark.task.parameter_groups import parameter_groups, scale_rates
from landmark.task.schedule import total_steps
from landmark.task.validation import EmbeddingCollector, nearest, retrieval_metrics


class RetrievalTask(pl.LightningModule):
    """Trains `loss(embedder(images), labels)`; validates by mAP@k of held-out queries.

    Args:
        embedder: images (B, 3, h, w) → embeddings (B, D).
        loss: embeddings (B, D), labels (B,) → scalar; holds the head's class centres.
        optimizer: parameter groups → optimizer.
        schedule: (optimizer, total_steps) → scheduler advanced once an optimizer step.
        embedder_description: text of `embedder.yaml`, kept in each checkpoint so that a
            checkpoint alone can be extracted with.
        settings: the run's settings as JSON, kept in each checkpoint; a resumed run must agree.
        seed: what is drawn while training (dropout, stochastic depth) depends on it, the epoch, the
            batch and the process alone, so that a resumed run draws the same.
        backbone_lr: learning rate of the backbone; None takes the optimizer's.
        neck_lr: learning rate of pooling and neck; None takes the optimizer's.
        head_lr: learning rate of the class centres; None takes the optimizer's.
        decay_norms: whether weight decay acts on biases and normalisation weights too.
        layer_decay: each layer of the backbone learns at this share of the rate of the layer above
            it; None: all at one rate.
        freeze_batchnorm: the backbone's BatchNorm keeps its statistics.
        freeze_backbone_epochs: for so many epochs only pooling, neck and head learn.
        freeze_stages: so many first groups of the backbone's layers (stem, stage 1, …) never
            learn; nothing is computed backwards through them.
        imprint: before the first step each class centre becomes its photos' mean embedding.
        compile: passes the backbone through `torch.compile`.
        trained_share: the backbone of the embedder that is written is this share of the trained
            weights and the rest of those at the start, see `landmark.task.blending`.
        k: results a query in the validation's mAP.
        auxiliary: losses added to `loss`, each times its weight; none: `loss` alone.
        loss_name: what `loss` is called where each part is logged.

    Attributes:
        found: rows of the queries (Q,) in their table and of the gallery photos found for each
            (Q, k), best first, by the last validation; None before.
    """

    def __init__(
        self,
        embedder: Embedder,
        loss: nn.Module,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
        embedder_description: str = "",
        settings: str = "{}",
        seed: int = 0,
        *,
        backbone_lr: float | None = None,
        neck_lr: float | None = None,
        head_lr: float | None = None,
        decay_norms: bool = True,
        layer_decay: float | None = None,
        freeze_batchnorm: bool = False,
        freeze_backbone_epochs: int = 0,
        freeze_stages: int = 0,
        imprint: bool = False,
        compile: bool = False,
        trained_share: float = 1.0,
        k: int = 100,
        auxiliary: AuxiliaryLosses | None = None,
        loss_name: str = "main",
    ) -> None:
        super().__init__()
        check_share(trained_share)
        if freeze_backbone_epochs < 0 or freeze_stages < 0:
            raise UserError("task.freeze_backbone_epochs and task.freeze_stages are 0 or more")
        self.embedder = embedder
        self.loss = loss
        self.auxiliary = auxiliary or AuxiliaryLosses({}, {})
        self.loss_name = loss_name
        self.embedder_description = embedder_description
        self.settings = settings
        self.seed = seed
        self.freeze_backbone_epochs = freeze_backbone_epochs
        self.k = k
        self.imprint = imprint
        self.trained_share = trained_share
        self.found: tuple[np.ndarray, np.ndarray] | None = None
        self._make_optimizer = optimizer
        self._make_schedule = schedule
        self._learning_rates = {"backbone": backbone_lr, "neck": neck_lr, "head": head_lr}
        self._decay_norms = decay_norms
        self._layer_decay = layer_decay
        self._collectors: list[EmbeddingCollector] = []
        self._batchnorm_is_frozen = freeze_batchnorm
        self._still: list[nn.Module] = []
        if freeze_stages:
            self._still = freeze_first_stages(embedder.backbone.model, freeze_stages)
        if compile:
            embedder.backbone.compile()

    @property
    def backbone_is_frozen(self) -> bool:
        """Whether the backbone is held still in the present epoch."""
        return self.current_epoch < self.freeze_backbone_epochs

    def configure_model(self) -> None:
        """Shares the class centres out among the processes, where the head does so."""
        heads.place(self)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """One group of parameters a part, and a schedule advanced each optimizer step."""
        optimizer = self._make_optimizer(self._parameter_groups())
        scale_rates(optimizer)
        heads.follow(self, optimizer)
        schedule = self._make_schedule(optimizer, total_steps(self.trainer))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _parameter_groups(self) -> list[dict[str, Any]]:
        parts: dict[str, list[nn.Module]] = {
            "backbone": [self.embedder.backbone],
            "neck": [self.embedder.pooling, self.embedder.neck],
            "head": [self.loss, self.auxiliary],
        }
        return parameter_groups(parts, self._learning_rates, self._decay_norms, self._layer_decay)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips as Lightning does, with the norm that goes over all processes' centres."""
        by_norm = gradient_clip_algorithm in (None, "norm")
        if gradient_clip_val and by_norm and heads.shared_out(self):
            heads.clip_by_norm(self, optimizer, gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_start(self) -> None:
        """Imprints the class centres, once: a resumed run has them already."""
        # A run resumed in mid-epoch never comes to the start of an epoch.
        self.on_train_epoch_start()
        if self.imprint and self.global_step == 0:
            loader = self.trainer.datamodule.plain_train_dataloader()  # type: ignore[attr-defined]
            imprint(self.embedder, self.loss, loader)

    def on_train_epoch_start(self) -> None:
        """A frozen backbone also keeps its BatchNorm statistics and drops nothing."""
        self.embedder.train()
        self.embedder.backbone.train(not self.backbone_is_frozen)
        if self._batchnorm_is_frozen:
            self.embedder.freeze_batchnorm()
        for batchnorm in self._still:
            batchnorm.eval()

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Draws of this step depend on nothing that was drawn before."""
        del batch
        place = (self.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1))

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], _: int) -> Tensor:
        """The loss of one batch: images (B, 3, h, w), labels (B,), rows (B,)."""
        images, labels, _rows = batch
        embeddings = self._embed(images)
        main, others = self.loss(embeddings, labels), self.auxiliary(embeddings, labels)
        loss = self.auxiliary.total(main, others)
        if others:
            parts = {self.loss_name: main, **others}
            named = {f"train/{name}": part for name, part in parts.items()}
            self.log_dict(named, batch_size=len(images))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def _embed(self, images: Tensor) -> Tensor:
        with torch.no_grad() if self.backbone_is_frozen else nullcontext():
            features = self.embedder.features(images)
        return self.embedder.embed(features)

    def on_validation_epoch_start(self) -> None:
        """Starts with no embeddings of queries and gallery."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self._collectors = [
            EmbeddingCollector(len(labels), self.embedder.embedding_dim, self.device)
            for labels in (data.query_labels, data.gallery_labels)
        ]

    def validation_step(
        self, batch: tuple[Tensor, Tensor, Tensor], _: int, dataloader_idx: int = 0
    ) -> None:
        """Embeds queries (loader 0) or gallery photos (loader 1)."""
        images, _labels, rows = batch
        self._collectors[dataloader_idx].add(rows, self.embedder(images))

    def on_validation_epoch_end(self) -> None:
        """Searches and logs `val/map_at_k` and `val/top_1`."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        (query_rows, query), (gallery_rows, gallery) = (
            collector.gather() for collector in self._collectors
        )
        self._collectors = []
        queries, photos = query_rows.cpu().numpy(), gallery_rows.cpu().numpy()
        rows = nearest(query, gallery, self.k).cpu().numpy()
        metrics = retrieval_metrics(
            rows, data.query_labels[queries], data.gallery_labels[photos], k=self.k
        )
        self.found = queries, photos[rows]
        # Every process computed the same numbers from the same gathered embeddings.
        self.log_dict({f"val/{name}": value for name, value in metrics.items()}, prog_bar=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what rebuilds the embedder from the checkpoint alone, and the settings.

        What was logged before is on disk before the checkpoint is: a resumed run logs no step twice
        and lacks none.
        """
        for logger in self.trainer.loggers:
            logger.save()
        checkpoint["embedder_yaml"] = self.embedder_description
        checkpoint["settings"] = self.settings
        heads.bring_together(self, self._parameter_groups(), checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves each process its share of the class centres, where the head shares them out."""
        heads.share_out(self, self._parameter_groups(), checkpoint)
