"""ONNX files of embedders, compared with PyTorch."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from landmark.model import export as exporting  # noqa: E402
from landmark.model.build import build_embedder  # noqa: E402
from landmark.model.persist import describe_embedder, load_embedder, write_embedder  # noqa: E402
from landmark.model.same_padding import has_same_padding, with_fixed_padding  # noqa: E402
from landmark.model.weights_file import WEIGHTS  # noqa: E402
from landmark.pooling import GeM  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
MODEL = {"_target_": "landmark.model.build.build_embedder", "embedding_dim": 8}
GEM = {"_target_": "landmark.pooling.gem.GeM", "p": 3.0}


def written(folder, backbone, size, pooling=GEM):
    """Write an embedder whose BatchNorm has statistics, as after training."""
    module, _, name = pooling["_target_"].rpartition(".")
    options = {key: value for key, value in pooling.items() if key != "_target_"}
    make = getattr(__import__(module, fromlist=[name]), name)
    torch.manual_seed(0)
    embedder = build_embedder(backbone, make(**options), embedding_dim=8, image_size=size)
    embedder.train()
    with torch.no_grad():
        for _ in range(3):
            embedder(torch.rand(8, 3, size[1], size[0]))
    model = MODEL | {"backbone": backbone, "image_size": list(size)}
    description = describe_embedder(model, pooling, {"sizes": [list(size)]})
    return write_embedder(folder / "embedder", embedder, description)


def assert_equal_at(file, embedder, sizes, normalise=True, unit_length=True):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for batch, (width, height) in enumerate(sizes, 1):
        images = torch.rand(batch, 3, height, width)
        with torch.inference_mode():
            expected = embedder(images)
        shown = images if normalise else embedder.normalise(images)
        found = session.run(None, {"images": shown.numpy()})[0]
        if unit_length:
            np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
            expected = functional.normalize(expected)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4, rtol=1e-4)


def metadata(file):
    return {entry.key: entry.value for entry in onnx.load(file).metadata_props}


def assert_axes_are_named(file, height, width):
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    images, embeddings, *inner = (
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (model.graph.input[0], model.graph.output[0], *model.graph.value_info)
    )
    assert images == ["batch", 3, height, width]
    assert embeddings == ["batch", 8]
    words = {word for dims in inner for dim in dims for word in re.findall(r"[a-z]\w*", str(dim))}
    assert words <= {"batch", "height", "width"}


@pytest.fixture(scope="module")
def convolutional(tmp_path_factory):
    return written(tmp_path_factory.mktemp("convolutional"), "test_resnet", (64, 64))


@pytest.fixture(scope="module")
def exported_file(convolutional, scripts, tmp_path_factory):
    """Export the convolutional embedder with the default settings."""
    workdir = tmp_path_factory.mktemp("exported")
    printed = scripts.run(
        "export.py", f"embedder={convolutional}", "output=out/file.onnx", cwd=workdir
    ).stdout
    assert printed.splitlines()[-1] == "wrote out/file.onnx"
    return workdir / "out" / "file.onnx"


def test_any_size_and_batch(convolutional, exported_file):
    files = [path.name for path in exported_file.parent.iterdir()]
    assert files == ["file.onnx"]  # without an external data file
    embedder, _ = load_embedder(convolutional)
    assert_equal_at(exported_file, embedder, [(64, 64), (128, 96), (51, 77), (224, 160)])
    said = metadata(exported_file)
    assert said["size"] == "any width and height"
    assert (said["normalise"], said["unit_length"]) == ("true", "true")
    assert "mean 0.5, 0.5, 0.5; standard deviation 0.5, 0.5, 0.5" in said["images"]
    assert onnx.load(exported_file).opset_import[0].version == 18
    assert_axes_are_named(exported_file, "height", "width")


LEARNED = {
    "salad.SALAD": ("test_vit", {"clusters": 6, "cluster_dim": 4, "token_dim": 5}),
    "boq.BoQ": ("test_vit", {"dim": 64, "queries": 6, "rows": 3}),
    "dolg.DOLG": ("test_resnet", {"dim": 8, "branch_dim": 4, "output_dim": 6}),
    "regional_gem.RegionalGeM": ("test_resnet", {"unit_length": True}),
}


@pytest.mark.parametrize("name", LEARNED)
def test_a_pooling_with_weights_at_any_size_and_batch(tmp_path, name):
    backbone, options = LEARNED[name]
    pooling = {"_target_": f"landmark.pooling.{name}", **options}
    embedder, _ = load_embedder(written(tmp_path, backbone, (160, 128), pooling))
    exported = exporting.ExportedEmbedder(embedder)
    multiple = exported.multiples[0]
    # Several sizes and batches; raises an error where the file differs from PyTorch.
    exporting.write_checked(exported, tmp_path / "file.onnx", (160, 128), multiple, 18)


def test_an_existing_file_is_not_overwritten(convolutional, exported_file, scripts):
    settings = [f"embedder={convolutional}", "output=out/file.onnx"]
    workdir = exported_file.parents[1]
    refused = scripts.run("export.py", *settings, cwd=workdir, status=2).stderr
    assert refused == "error: out/file.onnx already exists. Pass overwrite=true to replace it.\n"


def test_export_without_normalisation_and_unit_length_in_one_size(convolutional, scripts, tmp_path):
    scripts.run(
        "export.py",
        f"embedder={convolutional}",
        "output=file.onnx",
        "normalise=false",
        "unit_length=false",
        "size=[96,64]",
        "opset=20",
        cwd=tmp_path,
    )
    embedder, _ = load_embedder(convolutional)
    file = tmp_path / "file.onnx"
    assert_equal_at(file, embedder, [(96, 64)] * 3, normalise=False, unit_length=False)
    said = metadata(file)
    assert (said["size"], said["normalise"], said["unit_length"]) == (
        "96x64 only",
        "false",
        "false",
    )
    assert "not of unit length" in said["embeddings"]
    assert onnx.load(file).opset_import[0].version == 20
    assert_axes_are_named(file, 64, 96)


def test_a_transformer_of_one_size(scripts, tmp_path):
    token = {"_target_": "landmark.pooling.class_token.ClassToken"}
    folder = written(tmp_path, "test_vit", (160, 160), token)
    printed = scripts.run(
        "export.py", f"embedder={folder}", "output=file.onnx", cwd=tmp_path
    ).stdout
    size = metadata(tmp_path / "file.onnx")["size"]
    assert f"size        {size}" in printed
    embedder, _ = load_embedder(folder)
    sizes = [(160, 160)] * 2
    if "any" in size:
        assert size == "any width and height, multiples of 16"
        sizes += [(96, 224)]
        assert_axes_are_named(tmp_path / "file.onnx", "height", "width")
    else:
        assert size == "160x160 only"
        assert_axes_are_named(tmp_path / "file.onnx", 160, 160)
    assert_equal_at(tmp_path / "file.onnx", embedder, sizes)


def test_axes_are_named_where_sides_are_multiples(tmp_path):
    embedder = build_embedder("tf_efficientnet_lite0", GeM(), embedding_dim=8).eval()
    file = tmp_path / "file.onnx"
    exporting.write_onnx(exporting.ExportedEmbedder(embedder).eval(), file, (64, 64), 32, 18)
    assert_axes_are_named(file, "height", "width")
    assert_equal_at(file, embedder, [(64, 64), (96, 128)])


def test_weights_that_are_not_finite_are_not_exported(convolutional, scripts, tmp_path):
    folder = tmp_path / "embedder"
    shutil.copytree(convolutional, folder)
    state = load_file(folder / WEIGHTS)
    save_file({k: t * torch.nan if t.ndim else t for k, t in state.items()}, folder / WEIGHTS)
    result = scripts.run("export.py", f"embedder={folder}", "output=f.onnx", cwd=tmp_path, status=2)
    assert result.stderr.startswith(f"error: {folder}: ")
    assert "contains NaN or infinite values. Pass weights of a" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "f.onnx").exists()


def test_tensorflow_padding_is_fixed_where_the_strides_divide_the_size():
    embedder = build_embedder("tf_efficientnet_lite0", GeM(), embedding_dim=8).eval()
    exported = exporting.ExportedEmbedder(embedder).eval()
    assert exported.multiples == [32]
    fixed = with_fixed_padding(exported).eval()
    assert has_same_padding(exported)
    assert not has_same_padding(fixed)
    for width, height in ((32, 32), (96, 64), (160, 32)):
        images = torch.rand(1, 3, height, width)
        with torch.inference_mode():
            torch.testing.assert_close(fixed(images), exported(images), rtol=1e-5, atol=1e-6)


def test_an_embedder_changed_since_the_export_is_noticed(convolutional, exported_file):
    embedder, _ = load_embedder(convolutional)
    exported = exporting.ExportedEmbedder(embedder).eval()
    worst, _ = exporting.largest_difference(exported, exported_file, [(64, 64)])
    assert worst <= exporting.TOLERANCE
    with torch.no_grad():
        embedder.neck[0].weight[0] *= 1.5
    worst, place = exporting.largest_difference(exported, exported_file, [(64, 64)])
    assert worst > exporting.TOLERANCE
    assert place == "1 of 64x64"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["embedder=nowhere", "output=f.onnx"], "embedder=nowhere does not exist"),
        (["embedder=EMBEDDER"], "missing required setting 'output'"),
        (
            ["embedder=EMBEDDER", "output=f.onnx", "opset=9"],
            "opset=9 is not valid. Pass a whole number >= 18.",
        ),
        (
            ["embedder=EMBEDDER", "output=f.onnx", "size=[32]"],
            "size=[32] is not valid. Pass any or [width,height].",
        ),
        (
            ["embedder=EMBEDDER", "output=f.onnx", "size=some"],
            "size=some is not valid. Pass any or [width,height].",
        ),
        (
            ["embedder=EMBEDDER", "output=f.onnx", "normalise=1"],
            "normalise=1 is not valid. Pass true or false.",
        ),
        (["embedder=EMBEDDER", "output=.", "overwrite=true"], ". is a folder"),
    ],
)
def test_wrong_settings_are_one_line(convolutional, scripts, tmp_path, settings, words):
    settings = [setting.replace("EMBEDDER", str(convolutional)) for setting in settings]
    result = scripts.run("export.py", *settings, cwd=tmp_path, status=2)
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(convolutional, tmp_path):
    hidden = (
        "import importlib.util, runpy, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if 'onnx' in name else find(name, *a)\n"
    )
    code = (
        f"{hidden}sys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.argv = [{str(ROOT / 'export.py')!r}, 'embedder={convolutional}', 'output=f.onnx']\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr == (
        "error: an export needs onnx, onnxruntime, onnxscript. "
        "Run pip install onnx onnxruntime onnxscript.\n"
    )
