"""precision=auto takes bfloat16 only if it is faster and agrees; a store keeps its precision."""

import numpy as np
import pytest
import torch
from extraction_world import extract, plan, write_world

from landmark.artifact.descriptors import DescriptorStore
from landmark.extract import precision
from landmark.extract.describe import Describer
from landmark.extract.precision import measured_precision, recorded_precision
from landmark.extract.store import write_store


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def speed(monkeypatch):
    """Return a function that sets the seconds of a float32 and of a bfloat16 pass."""

    def set_seconds(single, half):
        def seconds_of(work, _device):
            work()
            is_half = "bfloat16" in str(work.args[0]._dtype)
            return half if is_half else single

        monkeypatch.setattr(precision, "seconds_of", seconds_of)
        monkeypatch.setattr(precision, "multiplies_bf16", lambda _: True)

    return set_seconds


@pytest.mark.parametrize(
    ("single", "half", "chosen"), [(2.0, 1.0, "bf16"), (1.05, 1.0, "32"), (1.0, 2.0, "32")]
)
def test_the_faster_precision_is_chosen(world, tmp_path, speed, single, half, chosen):
    speed(single, half)
    made = plan(world, tmp_path / "s")
    choice = measured_precision(made.extraction, made.embedder)
    assert choice.precision == chosen
    assert f"precision=auto: {chosen}. bf16 takes" in choice.line
    assert f"({single / half:.2f} x, at least 1.1 x is needed)" in choice.line
    assert f"Pass precision={chosen}" in choice.line


def test_descriptors_that_differ_forbid_bfloat16(world, tmp_path, speed, monkeypatch):
    speed(2.0, 1.0)
    monkeypatch.setattr(precision, "MIN_COSINE", 1.1)
    made = plan(world, tmp_path / "s")
    assert measured_precision(made.extraction, made.embedder).precision == "32"


def test_descriptors_that_are_not_finite_forbid_bfloat16(world, tmp_path, speed, monkeypatch):
    speed(2.0, 1.0)
    call = Describer.__call__

    def broken(network, images):
        return call(network, images) * (torch.nan if network._dtype == torch.bfloat16 else 1)

    monkeypatch.setattr(Describer, "__call__", broken)
    made = plan(world, tmp_path / "s")
    assert measured_precision(made.extraction, made.embedder).precision == "32"


def test_a_device_without_bfloat16_products_is_not_measured(world, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "multiplies_bf16", lambda _: False)
    monkeypatch.setattr(precision, "seconds_of", pytest.fail)
    made = plan(world, tmp_path / "s")
    choice = measured_precision(made.extraction, made.embedder)
    assert choice.precision == "32"
    assert "no bfloat16 products" in choice.line


@pytest.mark.parametrize("name", ["32", "bf16"])
def test_a_store_keeps_its_precision(world, tmp_path, name):
    assert recorded_precision(tmp_path / "s", overwrite=False) is None
    extract(world, tmp_path / "s", precision=name)
    choice = recorded_precision(tmp_path / "s", overwrite=False)
    assert choice.precision == name
    assert choice.line == f"precision=auto: {name}, as {tmp_path / 's'} was begun."
    assert recorded_precision(tmp_path / "s", overwrite=True) is None


def test_a_stopped_extraction_keeps_its_precision(world, tmp_path, monkeypatch):
    monkeypatch.setattr("landmark.extract.store._finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_store(plan(world, tmp_path / "s", precision="bf16"))
    assert not (tmp_path / "s").exists()
    assert recorded_precision(tmp_path / "s", overwrite=False).precision == "bf16"


def test_bfloat16_stores_agree_with_float32(world, tmp_path):
    half = extract(world, tmp_path / "s", precision="bf16")
    single = DescriptorStore.open(world / "complete")
    assert (np.asarray(half.vectors) * single.vectors).sum(1).min() > 0.9995


@pytest.mark.parametrize("threads", [1, 2])
def test_parts_of_a_batch_give_the_descriptors_of_the_batch(world, tmp_path, monkeypatch, threads):
    monkeypatch.setattr("landmark.extract.describe._BYTES_PER_THREAD", 4 * 32 * 48)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        store = extract(world, tmp_path / "s")
    finally:
        torch.set_num_threads(before)
    complete = DescriptorStore.open(world / "complete")
    np.testing.assert_allclose(store.vectors, complete.vectors, atol=1e-5)
