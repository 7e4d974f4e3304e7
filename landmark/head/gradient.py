"""Memory for the gradient of the centres: the same in each step, in huge pages."""

import mmap
import weakref
from contextlib import suppress

import torch
from torch import Tensor, nn

# Bytes from which huge pages (2 MiB on most machines) are worth a mapping of their own.
_LARGE = 2**22
# The mapping of each loss, and the buffer of the tensor that uses it, if that still exists.
_MAPPINGS: weakref.WeakKeyDictionary[nn.Module, tuple[mmap.mmap, weakref.ref[memoryview]]]
_MAPPINGS = weakref.WeakKeyDictionary()


def gradient_memory(loss: nn.Module, centres: Tensor) -> Tensor:
    """Return an uninitialised tensor like `centres` for the gradient of one backward pass.

    The gradient is as large as the centres, and optimizers free it after each step: on a CPU the
    page faults of a new one take up to half as long as the products that fill it. Its memory is
    thus kept with `loss` and used again once no tensor uses it; a gradient that still exists is
    never overwritten.

    Args:
        loss: The memory is freed with it.
        centres: (n, D).

    Returns:
        (n, D), contiguous.
    """
    if centres.device.type != "cpu" or centres.nbytes < _LARGE or not hasattr(mmap, "MAP_PRIVATE"):
        return torch.empty_like(centres, memory_format=torch.contiguous_format)
    mapping, buffer = _MAPPINGS.get(loss, (None, None))
    is_free = buffer is None or buffer() is None
    if mapping is None or len(mapping) != centres.nbytes or not is_free:
        mapping = _new_mapping(centres.nbytes)
    view = memoryview(mapping)
    if is_free:
        _MAPPINGS[loss] = mapping, weakref.ref(view)
    # The tensor's storage holds a reference to the view.
    return torch.frombuffer(view, dtype=centres.dtype).view(centres.shape)


def _new_mapping(size: int) -> mmap.mmap:
    mapping = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without transparent huge pages
            mapping.madvise(mmap.MADV_HUGEPAGE)
    return mapping
