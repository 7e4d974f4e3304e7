"""Every conf/model/*.yaml: the constructor's keys and defaults, and one forward pass."""

import inspect
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from landmark.model import build_embedder
from landmark.pooling import GeM

FOLDER = Path(__file__).parents[1] / "conf"
NAMES = sorted(path.stem for path in (FOLDER / "model").glob("[!_]*.yaml"))
FROM_THE_SCRIPT = {"pooling", "weights", "image_size", "adapter_dim"}
COMPUTED = {"fishnet99", "resnet18", "efficientnet_lite0", "vit_small_dinov3"}


@pytest.fixture(scope="module")
def configs():
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        return {name: compose(f"model/{name}").model for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_keys_and_defaults_equal_the_constructors(configs, name):
    parameters = inspect.signature(build_embedder).parameters
    config = dict(configs[name])
    assert config.pop("_target_") == "landmark.model.build.build_embedder"
    assert config.pop("_partial_") is True
    assert config.keys() | FROM_THE_SCRIPT == parameters.keys()
    del config["backbone"]
    assert config == {key: parameters[key].default for key in config}


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_one_forward_pass(configs, name):
    """Small networks run on the CPU, large ones on the meta device."""
    with torch.device("cpu" if name in COMPUTED else "meta"):
        embedder = instantiate(configs[name])(pooling=GeM()).eval()
        embeddings = embedder(torch.zeros(2, 3, 64, 96, dtype=torch.uint8))
    assert embeddings.shape == (2, 512)
    assert embedder.embedding_dim == 512
    if name in COMPUTED:
        assert embeddings.isfinite().all()


def test_unknown_keys_are_rejected(configs):
    with pytest.raises(TypeError, match="nonsense"):
        instantiate(configs["resnet18"], nonsense=1)(pooling=GeM())
