"""What a network gives and what it leaves unused, found without computing anything."""

import copy

import torch
from torch import Tensor, nn


def trace_shapes(module: nn.Module, height: int, width: int) -> tuple[tuple, set[str]]:
    """Runs a shadow of `module` on the meta device: shapes only, no memory, no arithmetic.

    Returns:
        The outputs for one (1, 3, height, width) photo, a tuple of meta tensors, lists of them or
        None; and the names of the parameters on which no output depends.
    """
    memo: dict[int, object] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"))
        for parameter in module.parameters()
    }
    memo |= {id(b): torch.empty_like(b, device="meta") for b in module.buffers()}
    shadow = copy.deepcopy(module, memo).eval()
    with torch.inference_mode(False), torch.enable_grad():
        outputs = shadow(torch.empty(1, 3, height, width, device="meta"))
        total = torch.stack([tensor.sum() for tensor in _tensors(outputs)]).sum()
        names, parameters = zip(*shadow.named_parameters(), strict=True)
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    unused = {name for name, g in zip(names, gradients, strict=True) if g is None}
    return outputs, unused


def _tensors(outputs: object) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, (tuple, list)):
        return [tensor for output in outputs for tensor in _tensors(output)]
    return []


def unused_parts(module: nn.Module, unused: set[str], prefix: str = "") -> list[str]:
    """Paths of the largest submodules, and of single parameters, that are wholly unused."""
    paths = [prefix + name for name, _ in module.named_parameters(recurse=False)]
    paths = [path for path in paths if path in unused]
    for name, child in module.named_children():
        path = prefix + name
        names = [f"{path}.{inner}" for inner, _ in child.named_parameters()]
        if names and unused.issuperset(names):
            paths.append(path)
        else:
            paths += unused_parts(child, unused, f"{path}.")
    return paths


def drop_parts(module: nn.Module, paths: list[str]) -> None:
    """Puts identities in place of submodules and freezes single parameters.

    Distributed training stops at parameters that get no gradient, and heads weigh megabytes.
    """
    for path in paths:
        parent_path, _, name = path.rpartition(".")
        parent = module.get_submodule(parent_path)
        part = getattr(parent, name)
        if isinstance(part, nn.Parameter):
            part.requires_grad_(False)
        else:
            setattr(parent, name, nn.Identity())
