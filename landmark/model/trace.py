"""Output shapes and unused parameters of a network, without computing values."""

import copy
from typing import Any

import torch
from torch import Tensor, nn


def trace_shapes(module: nn.Module, height: int, width: int) -> tuple[tuple, set[str]]:
    """Run a copy of `module` on the meta device, which computes only shapes.

    Returns:
        The outputs for one image (1, 3, height, width), a tuple of meta tensors, lists of them or
        None; and the names of the parameters that no output depends on.
    """
    with torch.inference_mode(False), torch.enable_grad():
        shadow = meta_copy(module)
        outputs = shadow(torch.empty(1, 3, height, width, device="meta"))
    used = _parameters_behind(tensors_of(outputs))
    return outputs, {name for name, p in shadow.named_parameters() if id(p) not in used}


def meta_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the meta device in evaluation mode, all of whose parameters learn."""
    memo: dict[int, object] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"))
        for parameter in module.parameters()
    }
    memo |= {id(b): torch.empty_like(b, device="meta") for b in module.buffers()}
    return copy.deepcopy(module, memo).eval()


def graph_nodes(outputs: list[Tensor]) -> set[Any]:
    """Return the nodes of the autograd graph of `outputs`."""
    queue = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(queue)
    while queue:
        parents = {parent for parent, _ in queue.pop().next_functions if parent is not None}
        queue += parents - seen
        seen |= parents
    return seen


def _parameters_behind(outputs: list[Tensor]) -> set[int]:
    """Return the ids of the parameters at the leaves of the autograd graph of `outputs`."""
    # AccumulateGrad of a parameter is the only node with a variable.
    return {id(node.variable) for node in graph_nodes(outputs) if hasattr(node, "variable")}


def tensors_of(outputs: object) -> list[Tensor]:
    """Return the tensors in nested tuples and lists."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, (tuple, list)):
        return [tensor for output in outputs for tensor in tensors_of(output)]
    return []


def unused_parts(module: nn.Module, unused: set[str], prefix: str = "") -> list[str]:
    """Return the paths of the largest submodules and single parameters that are unused."""
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
    """Replace submodules by identities and freeze single parameters.

    Distributed training fails on parameters without a gradient, and heads weigh megabytes.
    """
    for path in paths:
        parent_path, _, name = path.rpartition(".")
        parent = module.get_submodule(parent_path)
        part = getattr(parent, name)
        if isinstance(part, nn.Parameter):
            part.requires_grad_(False)
        else:
            setattr(parent, name, nn.Identity())
