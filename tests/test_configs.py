"""Every YAML composes, lists the keys of its constructor, and instantiates."""

import importlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from landmark.cli._signature import UNKNOWN, read_signature

CONF = Path(__file__).resolve().parents[1] / "conf"
COMMANDS = ("train", "extract", "fit", "export", "rerank", "clean", "recognize", "score")
OF_SCRIPT = {"extract": "extract", "fit": "fit", "search": "rerank", "rerank": "rerank"}
OF_SCRIPT |= {"local": "extract"}
ALONE = ("verify",)  # groups of several commands
# Arguments that the commands add to a group's settings.
ADDED = {
    "model": {"pooling", "weights", "image_size", "adapter_dim"},
    "loss": {"embedding_dim", "num_classes", "class_counts", "teacher_dim"},
    "sampler": {"groups", "labels", "batch_size", "seed", "num_replicas", "rank"},
    "schedule": {"optimizer", "total_steps"},
    "fit": {"store", "loss", "staging"},
}
OWN_GROUPS = ("data", "image", "sampler", "model", "pooling", "loss", "head", "schedule")
OWN_GROUPS += ("extract", "fit", "search", "rerank", "local", "verify")

# A photo in which local features found nothing.
NO_FEATURES = SimpleNamespace(
    keypoints=np.empty((0, 2)),
    descriptors=np.empty((0, 8)),
    size=(9, 9),
    scales=np.empty(0),
    angles=np.empty(0),
    background=np.empty(0),
)


def choices(group):
    files = (CONF / group).glob("*.yaml")
    return sorted(file.stem for file in files if not file.stem.startswith("_"))


def chain(group, choice):
    """Return the names and texts of a choice's YAML and those it inherits from."""
    text = (CONF / group / f"{choice}.yaml").read_text()
    defaults = OmegaConf.create(text).get("defaults", [])
    inherited = [one for one in defaults if isinstance(one, str) and one != "_self_"]
    parts = [part for one in inherited for part in chain(group, one).items()]
    return {choice: text, **dict(parts)}


def composed(script, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(script, overrides=list(overrides))


def settings_class(verb):
    """Return the dataclass of a command's own settings."""
    module = importlib.import_module(f"landmark.cli.{verb}")
    return getattr(module, verb.capitalize())


def node(group, choice):
    """Return the group's node in the composed settings of its command."""
    if group in ALONE:
        return choice_alone(group, choice)
    config = composed(OF_SCRIPT.get(group, "train"), f"{group}={choice}")
    if group in ("rerank", "callback", "auxiliary"):
        return config[group][choice]
    return config[group]


def choice_alone(group, choice):
    """Return the group's node composed without a command, which is faster."""
    return composed(f"{group}/{choice}")[group]


EVERY = [
    (folder.name, file.stem)
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name not in ("experiment", "hydra")
    for file in sorted(folder.glob("*.yaml"))
    if not file.stem.startswith("_")
]


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_command_composes_with_its_defaults(verb):
    assert composed(verb)


@pytest.mark.parametrize(("group", "choice"), EVERY)
def test_a_choice_composes_with_one_target_and_a_comment(group, choice):
    settings = node(group, choice)
    texts = list(chain(group, choice).values())
    assert all(text.startswith("#") for text in texts)
    assert "${" not in "".join(texts)
    is_of_another_group = "_here_" in texts[0]
    assert "".join(texts).count("_target_:") == (0 if is_of_another_group else 1)
    assert settings["_target_"]


@pytest.mark.parametrize(("group", "choice"), EVERY)
def test_values_of_a_choice_override_inherited_ones(group, choice):
    defaults = OmegaConf.load(CONF / group / f"{choice}.yaml").get("defaults", ["_self_"])
    assert defaults[-1] == "_self_"


@pytest.mark.parametrize(("group", "choice"), EVERY)
def test_a_choice_repeats_no_inherited_value(group, choice):
    own, *inherited = (yaml.safe_load(text) for text in chain(group, choice).values())
    for base in inherited:
        assert all(own[key] != base[key] for key in own.keys() & base.keys() - {"defaults"})


def test_a_base_is_inherited_by_several_choices_and_is_not_a_choice():
    for file in CONF.glob("*/_*.yaml"):
        group = file.parent.name
        assert file.stem not in choices(group)
        assert sum(file.stem in chain(group, choice) for choice in choices(group)) > 1


@pytest.mark.parametrize(("group", "choice"), [pair for pair in EVERY if pair[0] in OWN_GROUPS])
def test_a_choice_lists_the_constructors_keys_and_defaults(group, choice):
    settings = node(group, choice)
    signature = read_signature(settings["_target_"])
    assert not signature.is_open
    keys = {key for key in settings if not key.startswith("_")}
    assert keys == set(signature.parameters) - ADDED.get(group, set())
    own_defaults = {"rootsift", "patches"}  # the others of verify are settings of a class
    if group not in ("loss", "search", "rerank", "local") and choice not in own_defaults:
        return
    if choice == "spatial_2019":  # settings of Spatial too
        return
    for key in keys:
        default = signature.parameters[key].default
        if default is not UNKNOWN:
            value = settings[key]
            assert (tuple(value) if isinstance(default, tuple) else value) == default, key


@pytest.mark.parametrize(
    "group", ["loss", "head", "pooling", "image", "optimizer", "trainer", "sampler"]
)
def test_an_unknown_key_is_refused(group):
    with pytest.raises(ConfigCompositionException):
        composed("train", f"{group}.no_such_key=1")


@pytest.mark.parametrize("choice", choices("loss"))
def test_losses_do_a_forward_pass(choice):
    from landmark.loss.build import build_loss

    teacher = {"teacher": "STORE"} if choice == "distil" else {}
    make = instantiate(node("loss", choice), **teacher)
    loss = build_loss(make, 8, np.array([3, 1, 4, 1, 5]), teacher_dim=6)
    value = loss(torch.randn(4, 8), torch.randn(4, 6) if teacher else torch.tensor([0, 4, 0, 1]))
    assert value.ndim == 0
    assert torch.isfinite(value)


@pytest.mark.parametrize("choice", choices("auxiliary"))
def test_an_auxiliary_loss_is_the_loss_of_its_name_with_a_weight(choice):
    auxiliary, loss = (
        OmegaConf.to_container(node(group, choice)) for group in ("auxiliary", "loss")
    )
    assert auxiliary == {**loss, "weight": 1.0}


@pytest.mark.parametrize("choice", choices("head"))
def test_heads_attach_to_a_loss(choice):
    loss = instantiate(node("loss", "arcface"))(embedding_dim=8, num_classes=5)
    instantiate(node("head", choice)).attach(loss)
    value = loss(torch.randn(4, 8), torch.tensor([0, 4, 2, 1]))
    assert torch.isfinite(value)


@pytest.mark.parametrize("choice", choices("sampler"))
def test_samplers_yield_batches(choice):
    size = 32 if choice == "per_class" else 4
    sampler = instantiate(node("sampler", choice))(
        groups=np.zeros(40, int), labels=np.arange(40) % 10, batch_size=size, seed=0
    )
    rows = [row for batch in sampler for row in batch]
    assert len(list(sampler)) == len(sampler)
    assert set(rows) <= set(range(40))


@pytest.mark.parametrize("choice", choices("image"))
def test_image_formats_read_a_photo(choice, tmp_path):
    from PIL import Image

    Image.new("RGB", (90, 60), (10, 200, 30)).save(tmp_path / "photo.jpg")
    image = instantiate(node("image", choice))
    group = int(image.groups(np.array([90]), np.array([60]))[0])
    width, height = image.size(group)
    assert image.image(tmp_path / "photo.jpg", (width, height)).shape == (3, height, width)
    assert image.train_image(tmp_path / "photo.jpg", group, 0).shape == (3, height, width)


@pytest.mark.parametrize("choice", choices("data"))
def test_data_sources_are_created_without_reading(choice, tmp_path):
    settings = node("data", choice)
    missing = [key for key in settings if OmegaConf.is_missing(settings, key)]
    source = instantiate(settings, **dict.fromkeys(missing, str(tmp_path)))
    assert callable(source.read)
    assert callable(source.validation)


@pytest.mark.parametrize("choice", choices("optimizer"))
@pytest.mark.parametrize("schedule", choices("schedule"))
def test_optimizers_and_schedules_take_a_step(choice, schedule):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = instantiate(node("optimizer", choice))([weight])
    scheduler = instantiate(node("schedule", schedule))(optimizer, 10)
    (weight**2).sum().backward()
    optimizer.step()
    scheduler.step()
    assert not torch.equal(weight.detach(), torch.ones(3))


@pytest.mark.parametrize("choice", choices("trainer"))
def test_trainers_are_created_or_name_what_is_missing(choice, tmp_path):
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    make = instantiate(node("trainer", choice))
    if choice in ("gpu", "ddp") and not torch.cuda.is_available():
        with pytest.raises(MisconfigurationException, match="gpu"):
            make(default_root_dir=tmp_path, logger=False)
        return
    trainer = make(default_root_dir=tmp_path, logger=False)
    assert trainer.max_epochs == 24


@pytest.mark.parametrize("choice", choices("logger"))
def test_loggers_are_created(choice, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = instantiate(node("logger", choice))(save_dir=tmp_path)
    assert logger.name is not None


@pytest.mark.parametrize("choice", choices("callback"))
def test_callbacks_are_created(choice):
    from pytorch_lightning import Callback

    assert isinstance(instantiate(node("callback", choice)), Callback)


@pytest.mark.parametrize("choice", choices("verify"))
def test_verifiers_are_created_with_the_names_that_the_commands_read(choice):
    verifier = instantiate(node("verify", choice))
    assert callable(verifier)
    assert verifier.features
    assert verifier.false_rate == 0.01


@pytest.fixture
def pair_fit(tmp_path):
    """Write a fit of a pair model on the local features of NO_FEATURES."""

    def fit(method):
        from landmark.artifact.pair_model import PairModel
        from landmark.rerank import ames, elvis

        model = {"elvis": elvis.pair.ELViS, "ames": ames.pair.AMES}[method](dim=8)
        weights = {key: value.numpy() for key, value in model.state_dict().items()}
        meta = {"model": {"dim": 8}, "local": "patches", "weight": 0.5, "gamma": 1.0}
        PairModel(method, weights, meta).write(tmp_path / "fit")
        return str(tmp_path / "fit")

    return fit


@pytest.mark.parametrize("choice", choices("rerank") + choices("search"))
def test_rerankers_and_searches_run(choice, pair_fit):
    from landmark.rerank.retrieval import Retrieval

    rng = np.random.default_rng(0)
    query, gallery, train = (
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("float32")
        for x in (rng.standard_normal((n, 6)) for n in (3, 20, 12))
    )
    search = node("search", choice if choice in choices("search") else "flat")
    if choice == "factory":
        search.description = "Flat"
    search = instantiate(search)
    # The complete gallery, for any depth of a re-ranker.
    retrieval = Retrieval.from_search(query, gallery, 20, search, train, np.arange(12) % 4)
    if choice in choices("rerank"):
        known = retrieval.remembered("search").remembered("another")
        settings = node("rerank", choice)
        if "weights" in settings and settings["weights"] is None:
            settings["weights"] = pair_fit(choice)
        reranker = instantiate(settings)
        for name in getattr(reranker, "needs_local", ()):
            known = replace(
                known,
                query_local={**known.query_local, name: [NO_FEATURES] * 3},
                gallery_local={**known.gallery_local, name: [NO_FEATURES] * 20},
            )
        retrieval = reranker(known)
    assert retrieval.rows.shape == (3, 20)


@pytest.mark.parametrize("choice", choices("experiment"))
def test_experiments_compose(choice):
    config = composed("train", f"experiment={choice}")
    assert config.model.backbone


def test_the_ensemble_is_a_sweep_over_six_models():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["experiment=ensemble_scale_up"], return_hydra_config=True)
    assert config.hydra.mode.name == "MULTIRUN"
    names = config.hydra.sweeper.params["experiment/member"].split(",")
    members = [
        composed("train", "experiment=ensemble_scale_up", f"experiment/member={name}")
        for name in names
    ]
    backbones = ["fishnet150"] * 3 + ["legacy_seresnext101_32x4d"] * 2 + ["resnet101"]
    assert [member.model.backbone for member in members] == backbones
    stages = [member.pooling._target_.endswith("Stages") for member in members]
    assert stages == [False, False, True, False, False, False]
    assert len({member.seed for member in members}) == 6
    assert sum(member.model.embedding_dim for member in members) == 3072
    assert all(member.task.freeze_batchnorm for member in members)


@pytest.mark.parametrize("choice", choices("extract"))
def test_extraction_settings_compute_descriptors(choice):
    method = instantiate(node("extract", choice))
    images = [torch.rand(2, 3, 8, 8) for _ in method.scales]
    descriptors = method(lambda batch: batch.mean((2, 3)), images)
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("choice", choices("local"))
def test_local_features_have_the_layout_of_their_store(choice):
    feature = instantiate(node("local", choice))
    if getattr(feature, "from_maps", False):
        pytest.skip("computed from an embedder's feature map")
    features = feature(np.zeros((64, 64, 3), np.uint8))
    assert features.dim == feature.dim
    assert features.descriptors.dtype == feature.dtype
    assert feature.columns == 2 + (features.scales is not None) + (features.angles is not None)
