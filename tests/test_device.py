"""Device names, and the error of a missing device."""

import os
from pathlib import Path

import pytest
import torch

from landmark.device import Device, has_bf16_products, torch_device, usable_cpus
from landmark.error import UserError
from landmark.settings import check_value

VALID = ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12"]
INVALID = ["gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:0,1", "CPU", "", "xla", "auto:0"]


@pytest.fixture
def machine(monkeypatch):
    """Pretend that the machine has GPUs, or Apple's device."""

    def pretend(gpus=0, mps=False):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    pretend()
    return pretend


def test_device_names():
    for name in VALID:
        check_value("device", name, Device)
    for name in INVALID:
        with pytest.raises(UserError, match=r"Pass auto, cpu, mps, cuda or cuda:N\."):
            check_value("device", name, Device)


@pytest.mark.parametrize(
    ("name", "gpus", "mps", "expected"),
    [
        ("auto", 0, False, "cpu"),
        ("auto", 0, True, "mps"),
        ("auto", 2, True, "cuda:0"),
        ("cpu", 2, True, "cpu"),
        ("mps", 0, True, "mps"),
        ("cuda", 2, False, "cuda:0"),
        ("cuda:1", 2, False, "cuda:1"),
    ],
)
def test_the_device_of_a_single_process(machine, name, gpus, mps, expected):
    machine(gpus, mps)
    assert torch_device(name) == torch.device(expected)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_rank_uses_the_gpu_of_its_local_rank(machine, name):
    machine(gpus=2)
    devices = [torch_device(name, local_rank=rank, local_world_size=4) for rank in range(4)]
    assert devices == [torch.device("cuda", index) for index in (0, 1, 0, 1)]


@pytest.mark.parametrize(
    ("name", "gpus", "processes", "words"),
    [
        ("gpu", 0, 1, r"device=gpu is unknown\. Pass auto, cpu"),
        ("cuda", 0, 1, r"device=cuda: this machine has no GPU\. Pass device=cpu\."),
        ("cuda:0", 0, 1, "this machine has no GPU"),
        ("cuda:2", 2, 1, r"device=cuda:2 does not exist\. There are 2 GPUs, from cuda:0\."),
        ("cuda:1", 2, 2, r"device=cuda:1 is one GPU for 2 processes\. Pass device=cuda\."),
        ("mps", 2, 1, r"device=mps is not available on this machine\. Pass device=cpu\."),
    ],
)
def test_a_missing_device_is_one_line(machine, name, gpus, processes, words):
    machine(gpus)
    with pytest.raises(UserError, match=words):
        torch_device(name, local_world_size=processes)


def test_usable_cpus_respect_the_affinity_of_the_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert usable_cpus() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # only Linux has it
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cpus() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cpus() == 1


@pytest.mark.parametrize(
    ("onednn", "amx", "avx512_bf16", "expected"),
    [
        (True, True, True, True),
        (True, True, False, True),
        (True, False, True, True),  # Cooper Lake, Zen 4
        (True, False, False, False),
        (False, True, True, False),
    ],
)
def test_bfloat16_products_need_onednn_and_hardware(
    monkeypatch, onednn, amx, avx512_bf16, expected
):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    assert has_bf16_products() is expected


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux lists the CPU's flags")
def test_bfloat16_products_agree_with_the_flags_of_the_cpu():
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    in_hardware = bool(flags & {"amx_bf16", "avx512_bf16"})
    assert has_bf16_products() == (in_hardware and torch.backends.mkldnn.is_available())
