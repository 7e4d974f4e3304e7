"""The losses of a training: construct them with head and teacher from the configuration."""

from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from landmark.error import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from landmark.artifact.descriptors import DescriptorStore
    from landmark.loss.auxiliary import AuxiliaryLosses


def expected_dim(config: DictConfig) -> int:
    """Return the length of the embeddings; without a neck, which only the backbone knows, any."""
    if config.model.neck != "none":
        return int(config.model.embedding_dim)
    return max([8, *(config.loss.get("nested") or [])])


def teacher_of(config: DictConfig) -> "DescriptorStore | None":
    """Open the descriptor store that a loss learns from; None without one."""
    from landmark.artifact.descriptors import DescriptorStore

    folders = [loss.teacher for loss in loss_settings(config) if "teacher" in loss]
    return DescriptorStore.open(folders[0]) if folders else None


def needs_landmarks(config: DictConfig) -> bool:
    """Whether a loss needs labels: all but a distillation do."""
    return not all("teacher" in loss for loss in loss_settings(config))


def loss_settings(config: DictConfig) -> list[DictConfig]:
    """Return the settings of the main loss and of the auxiliary losses."""
    return [config.loss, *(config.get("auxiliary") or {}).values()]


def losses(
    config: DictConfig,
    embedding_dim: int,
    class_counts: "np.ndarray",
    teacher: "DescriptorStore | None" = None,
) -> tuple["nn.Module", "AuxiliaryLosses"]:
    """Construct the main loss with its head, and the auxiliary losses."""
    from landmark.loss.build import build_auxiliary, build_loss, check_pairs

    main = HydraConfig.get().runtime.choices["loss"]
    head = instantiate(config.head)
    teacher_dim = None if teacher is None else teacher.dim
    loss = build_loss(instantiate(config.loss), embedding_dim, class_counts, head, teacher_dim)
    weights, factories = {}, {}
    for name, options in plain(config).get("auxiliary", {}).items():
        if name == main:
            raise UserError(f"auxiliary=[{name}] is already the main loss. Choose another loss.")
        weights[name] = options.pop("weight")
        factories[name] = instantiate(options)
    auxiliary = build_auxiliary(factories, weights, embedding_dim, class_counts, teacher_dim)
    check_pairs({main: loss, **auxiliary.losses}, config.sampler.get("photos_per_class", 1))
    return loss, auxiliary


def plain(config: DictConfig) -> dict[str, Any]:
    """Convert a configuration to dictionaries, lists and values; resolve interpolations."""
    return dict(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
