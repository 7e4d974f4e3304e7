"""The LightningModule: trains an embedder with a loss and validates it by retrieval."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Unpack

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from landmark.loss.auxiliary import AuxiliaryLosses
from landmark.loss.distil import targets_of
from landmark.model.embedder import Embedder
from landmark.settings import Seed, checked
from landmark.task import heads
from landmark.task.imprinting import imprint
from landmark.task.parts import PartOptions, PartTraining
from landmark.task.validation import EmbeddingCollector, nearest, retrieval_metrics


class RetrievalTask(PartTraining):
    """Train `loss(embedder(images), labels)`; validate by mAP@k of held-out queries.

    Args:
        embedder: Images (B, 3, h, w) → embeddings (B, D).
        loss: Embeddings (B, D), labels (B,) → scalar; contains the head's class centres.
        optimizer: Parameter groups → optimizer.
        schedule: (optimizer, total_steps) → scheduler that steps once per optimizer step.
        auxiliary: Losses added to `loss`, each times its weight. Defaults to none.
        loss_name: Name of `loss` in the logs, beside the auxiliary losses.
        seed: Seed of dropout and stochastic depth. Draws depend only on it, the epoch, the batch
            and the rank, so that a resumed run draws the same.
        imprint: Set each class centre to the mean embedding of its photos before the first step.
        compile: Compile the backbone with `torch.compile`, once per image and batch size.
        trained_share: Share of the trained weights in the backbone that is written; the rest is the
            weights before training, see `landmark.task.training.interpolate`.
        k: Results per query that count in the validation's mAP.
        parts: Learning rates and freezing, see `PartOptions`.

    Attributes:
        ranking: Rows of the queries (Q,) in their table and of the nearest gallery photos of each
            (Q, k), best first, in the last validation. None before it.
    """

    @checked
    def __init__(
        self,
        embedder: Embedder,
        loss: nn.Module,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
        auxiliary: AuxiliaryLosses | None = None,
        loss_name: str = "main",
        seed: Seed = 0,
        imprint: bool = False,
        compile: bool = False,
        trained_share: Annotated[float, Field(gt=0, le=1)] = 1.0,
        k: PositiveInt = 100,
        **parts: Unpack[PartOptions],
    ) -> None:
        super().__init__(embedder, optimizer, schedule, **parts)
        self.loss = loss
        self.auxiliary = auxiliary or AuxiliaryLosses({}, {})
        self.loss_name = loss_name
        self.seed = seed
        self.imprint = imprint
        self.trained_share = trained_share
        self.k = k
        self.ranking: tuple[np.ndarray, np.ndarray] | None = None
        self._collectors: list[EmbeddingCollector] = []
        if compile:
            _compile(embedder.backbone)

    def configure_model(self) -> None:
        """Shard the class centres across ranks, if the head is class-parallel."""
        heads.shard_weights(self)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does; the norm includes the class centres of all ranks."""
        by_norm = gradient_clip_algorithm in (None, "norm")
        if gradient_clip_val and by_norm and heads.sharded(self):
            heads.clip_by_norm(self, optimizer, gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_start(self) -> None:
        """Imprint the class centres if requested; a resumed run restores them."""
        # Lightning does not call it when a run resumes within an epoch.
        self.on_train_epoch_start()
        if self.imprint and self.global_step == 0:
            loader = self.trainer.datamodule.plain_train_dataloader()  # type: ignore[attr-defined]
            imprint(self.embedder, self.loss, loader)

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Seed the draws of this step, independently of all earlier draws."""
        del batch
        entropy = (self.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        """Compute the loss of a batch: images (B, 3, h, w), labels (B,), rows (B,).

        With a teacher its vectors (B, T) follow.
        """
        images, labels, _rows, *teacher = batch
        vectors = teacher[0] if teacher else None
        with self.backbone_gradients():
            features = self.embedder.features(images)
        embeddings = self.embedder.embed(features)
        main = self.loss(embeddings, targets_of(self.loss, labels, vectors))
        added = self.auxiliary(embeddings, labels, vectors)
        loss = self.auxiliary.total(main, added)
        if added:
            losses = {self.loss_name: main, **added}
            named = {f"train/{name}": value for name, value in losses.items()}
            self.log_dict(named, batch_size=len(images))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Start collecting embeddings of queries and gallery."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self._collectors = [
            EmbeddingCollector(len(labels), self.embedder.embedding_dim, self.device)
            for labels in (data.query_labels, data.gallery_labels)
        ]

    def validation_step(
        self, batch: tuple[Tensor, Tensor, Tensor], _: int, dataloader_idx: int = 0
    ) -> None:
        """Embed queries (dataloader 0) or gallery photos (dataloader 1)."""
        images, _labels, rows = batch
        self._collectors[dataloader_idx].add(rows, self.embedder(images))

    def on_validation_epoch_end(self) -> None:
        """Search, and log `val/map_at_k` and `val/top_1`."""
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
        self.ranking = queries, photos[rows]
        # All ranks compute the same numbers from the same gathered embeddings.
        self.log_dict({f"val/{name}": value for name, value in metrics.items()}, prog_bar=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Gather sharded class centres, so that the checkpoint is independent of world size."""
        heads.gather_checkpoint(self, self.parameter_groups(), checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Reduce the class centres to this rank's shard, if the head is class-parallel."""
        heads.shard_checkpoint(self, self.parameter_groups(), checkpoint)


def _compile(backbone: nn.Module) -> None:
    """Compile a backbone once per input size.

    The guards of a graph with symbolic heights and widths take minutes to derive, and each aspect
    group fails the guards of the others, so sizes stay static. The limit, after which PyTorch
    runs without compilation, has to admit five sizes with two batch sizes, with and without
    gradients.
    """
    from torch._dynamo import config

    config.cache_size_limit = max(config.cache_size_limit, 64)
    backbone.compile(dynamic=False)
