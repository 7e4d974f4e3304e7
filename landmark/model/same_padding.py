"""Replace TensorFlow's "same" padding by fixed padding, for sides that the strides divide."""

import copy

from timm.layers import Conv2dSame
from torch import nn


def has_same_padding(model: nn.Module) -> bool:
    """Whether the model pads by TensorFlow's rule, which depends on the size of each map."""
    return any(isinstance(module, Conv2dSame) for module in model.modules())


def with_fixed_padding(model: nn.Module) -> nn.Module:
    """Return a copy with fixed padding; its output is the same if strides divide the maps' sides.

    In that case the rule's padding, max((⌈n / s⌉ - 1) s + (k - 1) d + 1 - n, 0) for side n, stride
    s, kernel k and dilation d, is (k - 1) d + 1 - s for any n; an odd pixel goes right and below.
    The exporter cannot trace the rule through a network in reasonable time.
    """
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv2dSame):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, _with_padding(module))
    return model


def _with_padding(convolution: Conv2dSame) -> nn.Sequential:
    kernel, stride, dilation = (
        (int(sides[0]), int(sides[1]))
        for sides in (convolution.kernel_size, convolution.stride, convolution.dilation)
    )
    (top, bottom), (left, right) = (
        _amounts(kernel[side], stride[side], dilation[side]) for side in (0, 1)
    )
    plain = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        kernel,
        stride,
        dilation=dilation,
        groups=convolution.groups,
        bias=convolution.bias is not None,
    )
    plain.load_state_dict(convolution.state_dict())
    return nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), plain)


def _amounts(kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return the padding before and after one side."""
    padding = max((kernel - 1) * dilation + 1 - stride, 0)
    return padding // 2, padding - padding // 2
