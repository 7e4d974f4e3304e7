"""The speed of faiss's matrix products on this machine, and the way out where they are slow.

faiss's wheels contain an OpenBLAS that does not know newer processors and then takes a kernel
several times too slow. It takes another one if OPENBLAS_CORETYPE is set before faiss is loaded.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from landmark.processes import notice, rank

if TYPE_CHECKING:
    from faiss import LinearTransform

# In multiply-adds: work that takes seconds at any rate, so that to import torch, to measure and to
# check a kernel is no loss; and work that is worth a choice once the rates are known.
MEASURED_WORK = 2**38
_CHOSEN_WORK = 2**30
_FASTER = 1.5  # of two rates that differ by less, neither is worth a change
_SLOW = 0.5  # share of torch's rate
_ROWS, _COLUMNS, _DIM = 1024, 1024, 512  # of the products that are timed: 2^29 multiply-adds
_ROUNDS = 2
_VARIABLE = "OPENBLAS_CORETYPE"
# OpenBLAS's kernel for the instructions of this processor, as torch names them.
_CORE_TYPES = {"AVX512": ("SkylakeX", "Haswell"), "AVX2": ("Haswell",)}
# Rows, columns and dimension of the products that are checked, with odd ones for the edges.
_CHECKED_SHAPES = [(256, 512, 128), (131, 257, 512), (67, 1000, 77)]
_TOLERANCE = 1e-5  # of products of unit vectors; rounding to float32 makes errors of about 1e-7
_CHILD_SECONDS = 60.0

Multiply = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (n, D), (m, D) → (n, m)


class Rates(NamedTuple):
    """Speed of float32 products of this process, in multiply-adds per second.

    Attributes:
        faiss: With the BLAS that faiss has loaded.
        torch: With PyTorch on the CPU.
    """

    faiss: float
    torch: float


@cache
def rates() -> Rates:
    """Measure the products of faiss and of torch on a small block, once per process.

    Example:
        >>> rates() is rates()
        True
    """
    pair = vectors(_ROWS, 0, _DIM), vectors(_COLUMNS, 1, _DIM)
    multiply_faiss, multiply_torch = faiss_multiply(pair[1]), torch_multiply(pair[1])
    seconds: dict[Multiply, list[float]] = {multiply_faiss: [], multiply_torch: []}
    for _ in range(_ROUNDS):
        for multiply, measured in seconds.items():
            # Twice, since the threads of the other library may wait in a loop after their work.
            measured += [_seconds(multiply, pair) for _ in range(2)]
    work = _ROWS * _COLUMNS * _DIM
    return Rates(*(work / min(measured) for measured in seconds.values()))


def torch_is_faster(work: int) -> bool:
    """Whether to leave products of `work` multiply-adds to torch.

    Only large work is worth the measurement. Smaller work stays with faiss until then.

    Example:
        >>> torch_is_faster(2**20)
        False
    """
    if work < (_CHOSEN_WORK if rates.cache_info().currsize else MEASURED_WORK):
        return False
    measured = rates()
    return measured.torch > _FASTER * measured.faiss


def warn_if_slow(work: int, alternative: str = "search=flat") -> None:
    """Say once if faiss multiplies at less than half of torch's rate, and what to do about it.

    Small work is not worth the measurement, and prints nothing.

    Args:
        work: Multiply-adds that faiss is about to do.
        alternative: Setting that avoids faiss's products.

    Example:
        >>> warn_if_slow(2**20)
    """
    if work >= MEASURED_WORK and rank() == 0:
        _warn_once(alternative)


@cache
def _warn_once(alternative: str) -> None:
    measured = rates()
    if measured.faiss >= _SLOW * measured.torch:
        return
    core_type = faster_core_type(measured)
    way_out = f"Set {_VARIABLE}={core_type} before the command, or pass" if core_type else "Pass"
    notice(
        f"faiss multiplies at {measured.faiss / 1e9:.0f} G multiply-adds/s here, PyTorch at "
        f"{measured.torch / 1e9:.0f}. {way_out} {alternative}."
    )


def faster_core_type(measured: Rates) -> str | None:
    """Return the first kernel of faiss's OpenBLAS that is proven to be right and faster here.

    Args:
        measured: Rates of this process.

    Returns:
        A value of OPENBLAS_CORETYPE; None if no kernel is.

    Example:
        >>> faster_core_type(Rates(faiss=float("inf"), torch=1.0)) is None
        True
    """
    import torch

    for core_type in _CORE_TYPES.get(torch.backends.cpu.get_cpu_capability(), ()):
        if proven_rate(core_type) > _FASTER * measured.faiss:
            return core_type
    return None


def proven_rate(core_type: str) -> float:
    """Return the rate of faiss's products with a kernel, 0 if they are wrong or it crashes.

    Another process multiplies with the kernel, and compares the products of faiss, and of numpy,
    which obeys the same variable, with those in float64 without a BLAS.

    Example:
        >>> proven_rate("Haswell") >= 0
        True
    """
    environment = {**os.environ, _VARIABLE: core_type, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", "from landmark.search import blas; blas.print_proof()"]
    try:
        run = subprocess.run(
            command, env=environment, capture_output=True, timeout=_CHILD_SECONDS, check=True
        )
        error, rate = json.loads(run.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):  # such as an illegal instruction
        return 0.0
    return float(rate) if error <= _TOLERANCE else 0.0


def print_proof() -> None:
    """Print the largest error of this process's products, and the rate of those of faiss.

    Example:
        >>> print_proof()
        [...]
    """
    error = max(
        largest_error(lambda a, b: faiss_multiply(b)(a, b)),
        largest_error(_transposed_multiply),
        largest_error(lambda a, b: a @ b.T),
        largest_error(lambda a, b: a.astype(np.float64) @ b.astype(np.float64).T),
    )
    pair = vectors(_ROWS, 0, _DIM), vectors(_COLUMNS, 1, _DIM)
    multiply = faiss_multiply(pair[1])
    seconds = min(_seconds(multiply, pair) for _ in range(2 * _ROUNDS))
    print(json.dumps([error, _ROWS * _COLUMNS * _DIM / seconds]))


def largest_error(multiply: Multiply) -> float:
    """Return the largest error of products of unit vectors, infinite if one is not a number.

    Example:
        >>> largest_error(lambda a, b: a @ b.T) < 1e-5
        True
        >>> largest_error(lambda a, b: a @ b.T + 0.1).__round__(1)
        0.1
    """
    errors = []
    for rows, columns, dim in _CHECKED_SHAPES:
        a, b = vectors(rows, 2, dim), vectors(columns, 3, dim)
        true = np.einsum("nd,md->nm", a, b, dtype=np.float64)  # einsum, which uses no BLAS
        errors.append(float(np.abs(multiply(a, b) - true).max()))
    return max(errors) if np.isfinite(errors).all() else np.inf


def vectors(rows: int, seed: int, dim: int) -> np.ndarray:
    """Return random unit vectors (rows, dim) float32.

    Example:
        >>> vectors(2, seed=0, dim=3).shape
        (2, 3)
    """
    drawn = np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)
    return drawn / np.sqrt(np.square(drawn).sum(axis=1, keepdims=True))


def faiss_multiply(matrix: np.ndarray) -> Multiply:
    """Return the product by (m, D) float32 as faiss multiplies: its BLAS and nothing else.

    Example:
        >>> eye = np.eye(2, dtype=np.float32)
        >>> faiss_multiply(eye)(eye, eye).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    transform = _transform(matrix)
    return lambda a, _: transform.apply(a)


def torch_multiply(matrix: np.ndarray) -> Multiply:
    """Return the product by (m, D) float32 of torch on the CPU.

    Example:
        >>> eye = np.eye(2, dtype=np.float32)
        >>> torch_multiply(eye)(eye, eye).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    import torch

    right = torch.from_numpy(matrix).T
    return lambda a, _: (torch.from_numpy(a) @ right).numpy()


def _transposed_multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Multiply with the other of the two products of faiss's BLAS that faiss uses."""
    return _transform(np.ascontiguousarray(b.T)).reverse_transform(a)


def _transform(matrix: np.ndarray) -> "LinearTransform":
    import faiss

    transform = faiss.LinearTransform(matrix.shape[1], matrix.shape[0], False)
    faiss.copy_array_to_vector(matrix.ravel(), transform.A)
    transform.is_orthonormal, transform.is_trained = True, True
    return transform


def _seconds(multiply: Multiply, pair: tuple[np.ndarray, np.ndarray]) -> float:
    began = time.perf_counter()
    multiply(*pair)
    return time.perf_counter() - began
