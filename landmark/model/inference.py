"""A copy of an embedder for forward passes without gradients: BatchNorm fused into convolutions."""

import copy
import platform
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame, pad_same
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from landmark.model.backbone import Backbone
from landmark.model.embedder import Embedder
from landmark.model.trace import graph_nodes, meta_copy, tensors_of

# Exact types: a subclass may compute something else.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)
# Activations that oneDNN applies to the output of a convolution: its name and arguments.
_ACTIVATIONS: dict[type, tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
}


def for_inference(
    embedder: Embedder, device: torch.device, dtype: torch.dtype = torch.float32
) -> Embedder:
    """Return a copy for inference on a device; the embedder itself is not changed.

    BatchNorm that directly follows a convolution is fused into its weights, and on x86 CPUs and
    NVIDIA GPUs the following activation into its loop over the output. On GPUs, where a bias costs
    as much as BatchNorm, both or none are fused. What does not fuse is copied. The copy costs the
    memory of the weights once more.

    Args:
        embedder: Images → embeddings.
        device: Device of the copy.
        dtype: Type in which convolutions compute: that of the autocast in which the copy is called,
            or float32 without one.
    """
    fusible = fusible_layers(embedder.backbone)
    fused = copy.deepcopy(embedder).to(device).eval()
    for layers in fusible:
        _fuse(fused.backbone, layers, device, dtype)
    return fused


@dataclass(frozen=True)
class FusibleLayers:
    """Paths of a convolution, of the BatchNorm of its output, and of that one's activation."""

    convolution: str
    norm: str
    activation: str | None


@torch.inference_mode(False)
@torch.enable_grad()
def fusible_layers(backbone: Backbone) -> list[FusibleLayers]:
    """Find convolutions whose output goes to a BatchNorm and nowhere else.

    The layers are read from the autograd graph of a pass on the meta device: an order of execution,
    which the order of a model's modules need not be.
    """
    shadow = meta_copy(backbone)
    # What each module read and returned, as nodes of the graph. A node of an in-place activation
    # replaces that of its input only afterwards.
    reads: dict[Any, list[str]] = {}
    returns: dict[str, Any] = {}
    calls: Counter[str] = Counter()

    def before(name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[name] += 1
        if inputs and isinstance(inputs[0], Tensor):
            reads.setdefault(inputs[0].grad_fn, []).append(name)

    def after(name: str, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        if isinstance(output, Tensor):
            returns[name] = output.grad_fn

    types: dict[str, type] = {}
    for name, module in shadow.named_modules():
        if type(module) in (*_CONVOLUTIONS, *_NORMS, *_ACTIVATIONS):
            types[name] = type(module)
            module.register_forward_pre_hook(partial(before, name))
            module.register_forward_hook(partial(after, name))
    outputs = shadow(torch.empty(1, 3, *backbone.native_size, device="meta"))
    nodes = graph_nodes(tensors_of(outputs))
    users = Counter(parent for node in nodes for parent, _ in node.next_functions)
    users.update(tensor.grad_fn for tensor in tensors_of(outputs))

    def follower(name: str, kinds: tuple[type, ...]) -> str | None:
        """Return the module of one of `kinds` that alone reads the output of `name`."""
        node = returns.get(name)
        if node is None or calls[name] != 1 or users[node] != 1:
            return None
        return next((r for r in reads.get(node, ()) if types[r] in kinds and calls[r] == 1), None)

    found = []
    for name in [name for name, kind in types.items() if kind in _CONVOLUTIONS]:
        norm = follower(name, _NORMS)
        if norm is not None and shadow.get_submodule(norm).running_mean is not None:
            found.append(FusibleLayers(name, norm, follower(norm, tuple(_ACTIVATIONS))))
    return found


def _fuse(
    backbone: Backbone, layers: FusibleLayers, device: torch.device, dtype: torch.dtype
) -> None:
    """Fuse the layers in place."""
    convolution: Any = backbone.get_submodule(layers.convolution)
    norm: Any = backbone.get_submodule(layers.norm)
    rest: nn.Module = nn.Identity()
    activation = None if layers.activation is None else backbone.get_submodule(layers.activation)
    if isinstance(norm, BatchNormAct2d):
        rest = nn.Sequential(norm.drop, norm.act)
        activation = norm.act if type(norm.drop) is nn.Identity else None
    own = activation if type(activation) in _ACTIVATIONS else None
    kind: type[_InferenceConvolution] | None = None
    if device.type == "cuda":
        if not _has_cudnn_relu(convolution, own):
            return
        kind = ConvolutionWithReLU
    elif _has_fused_activations(device, dtype) and not isinstance(convolution.padding, str):
        kind = ConvolutionWithActivation
    fused: nn.Module = fuse_conv_bn_eval(convolution, norm)
    if kind is not None:
        fused = kind(fused, own, dtype)
        if own is not None and isinstance(norm, BatchNormAct2d):
            rest = nn.Identity()
        elif own is not None:
            backbone.set_submodule(str(layers.activation), nn.Identity())
    backbone.set_submodule(layers.convolution, fused)
    backbone.set_submodule(layers.norm, rest)


def _has_cudnn_relu(convolution: Any, activation: nn.Module | None) -> bool:  # noqa: ANN401
    """Whether cuDNN computes a convolution and its activation together."""
    return (
        torch.version.cuda is not None
        and torch.backends.cudnn.is_available()
        and type(activation) is nn.ReLU
        and convolution.groups == 1
        and not isinstance(convolution.padding, str)
    )


def _has_fused_activations(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN's convolution with an activation exists for this device and type."""
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    operators = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(operators, "_convolution_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return bool(operators._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class _InferenceConvolution(nn.Module):
    """A convolution whose weights are stored in the type in which it computes.

    Args:
        convolution: Conv2d, or timm's Conv2dSame, with a bias or without.
        activation: An activation of `_ACTIVATIONS`. None means none.
        dtype: Type of weights and output.
    """

    weight: Tensor
    bias: Tensor | None
    bias_dtype: torch.dtype | None = None  # None: that of the weights

    def __init__(
        self,
        convolution: Any,  # noqa: ANN401 - nn.Conv2d, whose stubs lack the lengths of its tuples
        activation: nn.Module | None,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.pads = isinstance(convolution, Conv2dSame)
        self.kernel_size, self.stride = convolution.kernel_size, convolution.stride
        self.padding, self.dilation = convolution.padding, convolution.dilation
        self.groups = convolution.groups
        self.activation, self.arguments = (
            ("none", []) if activation is None else _ACTIVATIONS[type(activation)]
        )
        weight, bias = convolution.weight.detach(), convolution.bias
        layout = (
            torch.channels_last
            if weight.is_contiguous(memory_format=torch.channels_last)
            else torch.contiguous_format
        )
        rounded = weight if dtype == weight.dtype else rounded_kernels(weight, dtype)
        self.register_buffer("weight", rounded.contiguous(memory_format=layout))
        for above, left in ((0, 1), (1, 0), (1, 1)) if self.pads else ():
            wider = nn.functional.pad(self.weight, (left, 0, above, 0))
            self.register_buffer(
                _name_of_weight(above, left), wider.contiguous(memory_format=layout)
            )
        if bias is not None:
            bias = bias.detach().to(self.bias_dtype or dtype)
        self.register_buffer("bias", bias)

    def operands(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Return the images in the type of the weights, the weights, and symmetric padding.

        TensorFlow pads more at the end than at the start where the padding of an image is odd.
        Weights with a line of zeros before them compute the same with as much padding at the start,
        without a padded copy of the images.
        """
        images = images.to(self.weight.dtype)
        if not self.pads:
            return images, self.weight, self.padding
        if max(self.dilation) > 1:
            padded = pad_same(images, self.kernel_size, self.stride, self.dilation)
            return padded, self.weight, self.padding
        whole = [
            max(0, (-(-size // stride) - 1) * stride + kernel - size)
            for size, stride, kernel in zip(
                images.shape[2:], self.stride, self.kernel_size, strict=True
            )
        ]
        weight = getattr(self, _name_of_weight(whole[0] % 2, whole[1] % 2))
        return images, weight, tuple((padding + 1) // 2 for padding in whole)


def _name_of_weight(above: int, left: int) -> str:
    """Return the name of weights with lines of zeros above and columns of zeros to the left."""
    return "weight" if not above and not left else f"weight_{above}_{left}"


class ConvolutionWithActivation(_InferenceConvolution):
    """A convolution and its activation in one pass over the output, on x86 CPUs.

    It is the operator that `torch.compile` generates there, in float32 or bfloat16. Unlike
    PyTorch's own convolution it adds a float32 bias to bfloat16 products, and so rounds only the
    result.
    """

    bias_dtype = torch.float32

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C', h', w')."""
        images, weight, padding = self.operands(images)
        return torch.ops.mkldnn._convolution_pointwise(
            images,
            weight,
            self.bias,
            padding,
            self.stride,
            self.dilation,
            self.groups,
            self.activation,
            self.arguments,
            "",
        )


class ConvolutionWithReLU(_InferenceConvolution):
    """A convolution, its bias and ReLU in one pass over the output, on NVIDIA GPUs."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C', h', w')."""
        images, weight, padding = self.operands(images)
        return torch.cudnn_convolution_relu(
            images,
            weight,
            self.bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
        )


def rounded_kernels(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Round weights (out, in, h, w) so that the sum over each h × w kernel is kept.

    The error of each weight is added to the next smaller one. Neighbouring pixels are alike, so the
    error of a kernel's sum is most of the error of its output; the few weights of a depthwise
    kernel do not average it out.

    Example:
        >>> kernel = torch.tensor([[[[1.003, 1.003], [1.003, 0.01]]]])
        >>> round(float((kernel.bfloat16().float() - kernel).sum()), 3)
        -0.009
        >>> abs(float((rounded_kernels(kernel, torch.bfloat16).float() - kernel).sum())) < 1e-4
        True
    """
    kernels = weight.flatten(2)
    order = kernels.abs().argsort(dim=2, descending=True)
    ordered = kernels.gather(2, order)
    rounded = torch.empty_like(ordered, dtype=dtype)
    error = torch.zeros_like(ordered[..., 0])
    for position in range(ordered.shape[2]):
        wanted = ordered[..., position] + error
        rounded[..., position] = wanted.to(dtype)
        error = wanted - rounded[..., position].to(wanted.dtype)
    return torch.empty_like(rounded).scatter_(2, order, rounded).view_as(weight)
