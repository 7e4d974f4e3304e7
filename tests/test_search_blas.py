"""Slow matrix products of faiss are reported once, with a kernel that was checked first."""

import json
import subprocess
from functools import cache

import numpy as np
import pytest

from landmark.search import blas

SLOW = blas.Rates(faiss=28.4e9, torch=120.2e9)
LARGE = 2**40


@pytest.fixture
def measured(monkeypatch):
    """Replace the measurements; return a function that sets them."""

    def replace(rates, proven=None, cpu="AVX512"):
        monkeypatch.setattr(blas, "rates", cache(lambda: rates))
        monkeypatch.setattr(blas, "proven_rate", lambda core: (proven or {}).get(core, 0.0))
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: cpu)

    blas._warn_once.cache_clear()
    yield replace
    blas._warn_once.cache_clear()


def test_both_rates_are_measured_once():
    first = blas.rates()
    assert first.faiss > 0
    assert first.torch > 0
    assert blas.rates() is first


@pytest.mark.parametrize(
    ("proven", "cpu", "way_out"),
    [
        (
            {"SkylakeX": 125e9, "Haswell": 80e9},
            "AVX512",
            "Set OPENBLAS_CORETYPE=SkylakeX before the command, or pass search=flat.",
        ),
        (
            {"Haswell": 80e9},
            "AVX512",
            "Set OPENBLAS_CORETYPE=Haswell before the command, or pass search=flat.",
        ),
        (
            {"SkylakeX": 125e9, "Haswell": 80e9},
            "AVX2",
            "Set OPENBLAS_CORETYPE=Haswell before the command, or pass search=flat.",
        ),
        ({"SkylakeX": 30e9}, "AVX512", "Pass search=flat."),
        ({"SkylakeX": 125e9}, "DEFAULT", "Pass search=flat."),
    ],
    ids=["best", "wrong", "avx2", "no_faster", "unknown"],
)
def test_slow_products_are_one_line_with_a_proven_way_out(measured, capsys, proven, cpu, way_out):
    measured(SLOW, proven, cpu)
    for _ in range(2):
        blas.warn_if_slow(LARGE)
    assert capsys.readouterr() == (
        "",
        f"faiss multiplies at 28 G multiply-adds/s here, PyTorch at 120. {way_out}\n",
    )


def test_fast_products_and_other_ranks_print_nothing(measured, monkeypatch, capsys):
    measured(blas.Rates(61e9, 120e9))
    blas.warn_if_slow(LARGE)
    blas._warn_once.cache_clear()
    measured(SLOW)
    monkeypatch.setattr(blas, "rank", lambda: 1)
    blas.warn_if_slow(LARGE)
    assert capsys.readouterr() == ("", "")


def test_small_work_is_not_measured(monkeypatch):
    monkeypatch.setattr(blas, "rates", cache(lambda: pytest.fail("measured")))
    assert not blas.torch_is_faster(blas.MEASURED_WORK - 1)
    blas.warn_if_slow(blas.MEASURED_WORK - 1)


def test_smaller_work_is_chosen_by_rates_that_are_known(measured):
    measured(SLOW)
    assert not blas.torch_is_faster(2**33)
    assert blas.torch_is_faster(LARGE)
    assert blas.torch_is_faster(2**33)
    assert not blas.torch_is_faster(2**29)


@pytest.mark.parametrize(("faiss", "expected"), [(79e9, True), (81e9, False), (200e9, False)])
def test_torch_is_faster_by_half_or_not_at_all(measured, faiss, expected):
    measured(blas.Rates(faiss, 120e9))
    assert blas.torch_is_faster(LARGE) is expected


def test_a_kernel_is_checked_in_another_process():
    import torch

    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("a processor without AVX2")
    assert blas.proven_rate("Haswell") > 1e8


@pytest.mark.parametrize(
    ("output", "rate"),
    [
        (b"[1e-7, 1.25e11]", 1.25e11),
        (b"[0.1, 1.25e11]", 0),
        (b"[NaN, 1.25e11]", 0),
        (b"[Infinity, 1.25e11]", 0),
        (b"", 0),
        (subprocess.CalledProcessError(-4, "python"), 0),
        (subprocess.TimeoutExpired("python", 60), 0),
    ],
    ids=["right", "wrong", "nan", "inf", "nothing", "crash", "hangs"],
)
def test_a_wrong_or_crashing_kernel_is_never_proposed(monkeypatch, output, rate):
    seen = {}

    def run(command, env, **options):
        seen.update(env)
        if isinstance(output, Exception):
            raise output
        return subprocess.CompletedProcess(command, 0, output)

    monkeypatch.setattr(blas.subprocess, "run", run)
    assert blas.proven_rate("SkylakeX") == rate
    assert seen["OPENBLAS_CORETYPE"] == "SkylakeX"


def _last_column_lost(a, b):
    products = a @ b.T
    products[:, -1] = 0
    return products


@pytest.mark.parametrize(
    ("multiply", "least"),
    [
        (_last_column_lost, 0.01),
        (lambda a, b: a[:, :-1] @ b[:, :-1].T, 0.001),
        (lambda a, b: np.where(a[:, :1] > 0.1, np.nan, a @ b.T), np.inf),
    ],
    ids=["edge", "depth", "nan"],
)
def test_the_check_sees_what_broken_kernels_do(multiply, least):
    assert blas.largest_error(multiply) >= least


def test_the_products_of_both_libraries_pass_the_check(capsys):
    assert blas.largest_error(lambda a, b: blas.faiss_multiply(b)(a, b)) < 1e-6
    assert blas.largest_error(lambda a, b: blas.torch_multiply(b)(a, b)) < 1e-6
    blas.print_proof()
    error, rate = json.loads(capsys.readouterr().out)
    assert 0 < error < 1e-6
    assert rate > 0
