"""Precision of the matrix products of a head: float32, or rounded factors where that is faster."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, Literal

import torch

from landmark.device import has_bf16_products
from landmark.error import UserError
from landmark.processes import notice

ProductPrecision = Literal["float32", "bf16", "auto"]


def check_products(precision: ProductPrecision, device: torch.device) -> None:
    """Check that the hardware has the products of a precision.

    Raises:
        UserError: It is bf16 and the device has none.

    Example:
        >>> check_products("float32", torch.device("cpu"))
    """
    if precision == "bf16" and not _has_rounded_products(device):
        raise UserError(
            f"head.precision=bf16: this {device.type.upper()} does not multiply bfloat16 in "
            "hardware. Pass head.precision=float32 or auto."
        )


@contextmanager
def rounded_products(precision: ProductPrecision, device: torch.device) -> Iterator[None]:
    """Round the factors of float32 matrix products inside the block; sums stay float32.

    A CPU rounds to bfloat16, a CUDA GPU to TF32, which has three bits more. Products of other
    types stay as they are. PyTorch has one setting for all threads; the previous one is restored.

    Args:
        precision: float32 changes nothing; auto is bf16 where that is faster.
        device: Where the products are computed.

    Raises:
        UserError: See `check_products`.

    Example:
        >>> with rounded_products("auto", torch.device("cpu")):
        ...     product = torch.ones(2, 3) @ torch.ones(3, 2)
    """
    check_products(precision, device)
    if precision == "auto":
        precision = _fastest(device.type)
    if precision == "float32":
        yield
        return
    backend = _backend(device.type)
    before = backend.fp32_precision
    backend.fp32_precision = "bf16" if device.type == "cpu" else "tf32"
    try:
        yield
    finally:
        backend.fp32_precision = before


def _has_rounded_products(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and has_bf16_products()


@cache
def _fastest(device_type: str) -> ProductPrecision:
    """Return the faster precision for the product of a batch and a block of centres."""
    if device_type != "cpu":
        return "bf16" if _has_rounded_products(torch.device(device_type)) else "float32"
    if not has_bf16_products():
        notice("head.precision=auto: float32 (this CPU does not multiply bfloat16 in hardware).")
        return "float32"
    batch, block, out = torch.ones(64, 512), torch.ones(4096, 512), torch.empty(64, 4096)
    seconds: dict[ProductPrecision, float] = {"float32": torch.inf, "bf16": torch.inf}
    for _ in range(6):
        for precision, best in seconds.items():
            with rounded_products(precision, torch.device("cpu")):
                start = time.perf_counter()
                torch.mm(batch, block.T, out=out)
                seconds[precision] = min(best, time.perf_counter() - start)
    speed = seconds["float32"] / seconds["bf16"]
    chosen: ProductPrecision = "bf16" if speed > 1 else "float32"
    notice(f"head.precision=auto: {chosen} (products in bf16 are {speed:.1f} x as fast here).")
    return chosen


class _Legacy:
    """The setting of torch before 2.9, with the interface of later ones."""

    _NAMES: ClassVar[dict[str, str]] = {"bf16": "medium", "tf32": "high"}

    @property
    def fp32_precision(self) -> str:
        return torch.get_float32_matmul_precision()

    @fp32_precision.setter
    def fp32_precision(self, name: str) -> None:
        torch.set_float32_matmul_precision(self._NAMES.get(name, name))


def _backend(device_type: str) -> Any:  # noqa: ANN401
    """Return the object whose `fp32_precision` is that of products on the device."""
    if not hasattr(torch.backends.mkldnn, "matmul"):
        return _Legacy()
    return torch.backends.cuda.matmul if device_type == "cuda" else torch.backends.mkldnn.matmul
