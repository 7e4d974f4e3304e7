"""Make a linear adapter the last layer of an embedder on disk."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from landmark.disk.atomic import atomic_folder
from landmark.disk.space import disk_errors
from landmark.error import UserError
from landmark.model.persist import DESCRIPTION, embedder_state, load_embedder
from landmark.model.weights_file import WEIGHTS


def add_adapter(folder: str | Path, weight: NDArray[np.float32], digest: str) -> None:
    """Append a Linear without bias to the neck of an embedder folder, in place and atomically.

    Its embeddings are then multiplied by `weight`, so that unit-length descriptors, also averages
    over scales, equal those of the embedder before, multiplied afterwards. The weights of another
    adapter that the embedder has already are multiplied by the new ones. Its class centres, in the
    checkpoints of its run, remain those of the embedder without the adapter.

    Args:
        folder: Embedder folder.
        weight: (d, D).
        digest: Digest of the adapter, recorded in embedder.yaml.

    Raises:
        UserError: `folder` is not an embedder folder, or its embeddings are not of dimension D.
    """
    folder = Path(folder)
    embedder, description = load_embedder(folder)
    if embedder.embedding_dim != weight.shape[1]:
        raise UserError(
            f"{folder} has {embedder.embedding_dim} dimensions, the adapter takes "
            f"{weight.shape[1]}. Fit one on a store of this embedder."
        )
    layers = list(embedder.neck.children())
    if description["model"].get("adapter_dim") is not None:
        earlier: Any = layers.pop()
        product = weight.astype(np.float64) @ earlier.weight.detach().double().numpy()
        weight = product.astype(np.float32)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = nn.Parameter(torch.from_numpy(weight))
    embedder.neck = nn.Sequential(*layers, linear)
    description["model"]["adapter_dim"] = len(weight)
    description["adapter"] = digest
    other_files = shutil.ignore_patterns(WEIGHTS, DESCRIPTION)
    with atomic_folder(folder, overwrite=True, marker=DESCRIPTION) as new, disk_errors(folder):
        shutil.copytree(folder, new, ignore=other_files, dirs_exist_ok=True)
        save_file(embedder_state(embedder), new / WEIGHTS)
        (new / DESCRIPTION).write_text(yaml.safe_dump(description, sort_keys=False))


def has_adapter(path: str | Path) -> bool:
    """Return whether `path` is an embedder folder with an adapter."""
    file = Path(path) / DESCRIPTION
    return file.is_file() and "adapter" in yaml.safe_load(file.read_text())
