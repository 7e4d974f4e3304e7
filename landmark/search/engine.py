"""Choose the engine of an exact search: the one that is fastest on this machine."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import numpy as np
from pydantic import BeforeValidator

from landmark.device import Precision, has_bf16_products
from landmark.error import UserError
from landmark.processes import notice
from landmark.search.faiss_scan import knn
from landmark.search.product_scan import ProductScan
from landmark.search.rounding import full_accumulation, product_errors, rounded

if TYPE_CHECKING:
    import torch

Engine = Literal["auto", "faiss", "torch"]
# YAML and the command line read 32 and 16 as numbers.
AnyPrecision = Annotated[Literal["auto"] | Precision, BeforeValidator(str)]
SMALL_WORK = 3 * 10**10  # multiply-adds that take less than the import of torch and a measurement
MEASURED_ROWS = 8192
_MEASURED_QUERIES = 1024
_TYPES = {"32": "float32", "bf16": "bfloat16", "16": "float16"}
_chosen: dict[tuple, "Choice"] = {}


class Scan(Protocol):
    """The k best gallery rows of queries, while a gallery is scanned block by block."""

    def scan(self, block: np.ndarray, first: int) -> None:
        """Search the gallery rows `first`, first + 1, …: block (n, D) float32, n >= 1."""


@dataclass(frozen=True)
class Choice:
    """How to multiply: with faiss, or with torch in a precision.

    Example:
        >>> str(Choice("bf16"))
        'PyTorch bfloat16'
    """

    precision: Precision | None  # None: faiss

    def __str__(self) -> str:
        """Return the name for messages."""
        return f"PyTorch {_TYPES[self.precision]}" if self.precision else "faiss"

    @property
    def dtype(self) -> "torch.dtype":
        """Type of the products."""
        import torch

        assert self.precision
        return getattr(torch, _TYPES[self.precision])


FAISS = Choice(None)


def choose(
    query: np.ndarray,
    k: int,
    block: np.ndarray,
    rows: int,
    device: "torch.device",
    gpus: list[int] | None,
    precision: AnyPrecision,
    block_queries: int | None,
) -> Choice:
    """Measure the engines on the first rows of a gallery, and say once which is used.

    Args:
        query: (Q, D) float32.
        k: Results per query.
        block: First rows of the gallery, (n, D) float32.
        rows: N.
        device: Device of torch.
        gpus: GPUs of faiss; empty for its CPU version; None leaves it out.
        precision: Precision of torch's products; `auto` measures the fast ones of the device.
            Another one is checked, and faiss is left out.
        block_queries: See `Flat`.

    Raises:
        UserError: Products in `precision`, or all products, are wrong on this device.

    Example:
        >>> import torch
        >>> photos = np.eye(8, dtype=np.float32)
        >>> str(choose(photos, 1, photos, 8, torch.device("cpu"), None, "32", None))
        'PyTorch float32'
    """
    dim = block.shape[1]
    if precision != "auto":
        only = Choice(precision)
        if not is_right(only, device, dim):
            raise UserError(
                f"search.precision={precision}: products on {device} are wrong by more than "
                "rounding explains. Pass search.precision=32 or search.engine=faiss."
            )
        return only
    queries = min(len(query), _MEASURED_QUERIES)
    key = (str(device), dim, gpus is None, queries.bit_length())
    if key not in _chosen:
        choices = [Choice(one) for one in _fast_precisions(device)]
        choices = [one for one in choices if is_right(one, device, dim)]
        if gpus is None and not choices:
            raise UserError(
                f"search.engine=torch: products on {device} are wrong by more than rounding "
                "explains. Pass search.device=cpu search.engine=faiss."
            )
        block = np.ascontiguousarray(block[:MEASURED_ROWS])
        scale = rows / len(block)
        seconds: dict[Choice, float] = {}
        for one in choices:
            with full_accumulation():
                scan = ProductScan(query, k, device, one.dtype, block_queries)
                seconds[one] = scan.seconds(block) * scale
        if gpus is not None:
            seconds[FAISS] = _faiss_seconds(query, k, block, gpus) * scale
        best = min(seconds, key=seconds.__getitem__)
        _chosen[key] = best
        if len(seconds) > 1:
            notice(f"Exact search with {best}: {_listed(seconds, best)}, estimated.")
    return _chosen[key]


def _listed(seconds: dict[Choice, float], best: Choice) -> str:
    others = ", ".join(f"{one} {time:.3g} s" for one, time in seconds.items() if one != best)
    return f"{seconds[best]:.3g} s; {others}"


def _faiss_seconds(query: np.ndarray, k: int, block: np.ndarray, gpus: list[int]) -> float:
    some, best = query[:_MEASURED_QUERIES], np.inf
    for _ in range(2):
        start = time.perf_counter()
        knn(some, block, min(k, len(block)), gpus)
        best = min(best, time.perf_counter() - start)
    return float(best) * len(query) / len(some)


def _fast_precisions(device: "torch.device") -> tuple[Precision, ...]:
    """Return the precisions whose products may be the fastest ones of a device."""
    if device.type == "cuda":
        return "16", "32"
    if device.type == "cpu" and has_bf16_products():
        return "bf16", "32"
    return ("32",)


def is_right(choice: Choice, device: "torch.device", dim: int) -> bool:
    """Whether products on a device differ from those in float64 by no more than their bound.

    Example:
        >>> import torch
        >>> is_right(Choice("32"), torch.device("cpu"), 16)
        True
    """
    import torch

    random = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(320, dim, generator=random))
    cpu = torch.device("cpu")
    exact = vectors[:64].double() @ vectors[64:].double().T
    for dtype in {choice.dtype, torch.float32}:  # wider products follow those in 16 bits
        with full_accumulation():
            query = rounded(vectors[:64].to(device), dtype, cpu)
            gallery = rounded(vectors[64:].to(device), dtype, cpu)
            products = (query.values @ gallery.values.T).cpu().double()
            most = product_errors(query, gallery)[:, None]
            most = most + products.abs() * torch.finfo(dtype).eps
            if not ((products - exact).abs() <= most).all():
                return False
    return True
