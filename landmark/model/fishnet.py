"""FishNet-99, -150 and -201, registered with timm.

Sun, Pang, Shi, Yi, Ouyang: FishNet: A Versatile Backbone for Image, Region, and Pixel Level
Prediction. NeurIPS 2018, arXiv 1901.03495. Parameter names, their order and shapes are those of
the published state dicts.

A fish has a tail that halves the resolution three times, a body that doubles it three times and a
head that halves it three times again; body and head concatenate refined maps of earlier stages:

    stem 1/4 ── tail 1/8, 1/16, 1/32 ── bridge 1/32 ── body 1/16, 1/8, 1/4 ── head 1/8, 1/16, 1/32

The four maps of `feature_info` form a feature pyramid: the end of the body (320
channels, 1/4), the first two stages of the head (832, 1/8 and 1600, 1/16) and the final map (1056,
1/32).
"""

import math
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from landmark.error import UserError

STEM_CHANNELS = 64
TAIL_CHANNELS = (128, 256, 512)
BODY_CHANNELS = (512, 384, 256)
HEAD_CHANNELS = (320, 832, 1600)
FEATURE_CHANNELS = 1056
STRIDE = 32

# Index of the earlier map that each stage of body and head refines; 0 is the stem's.
TRANSFERRED = (2, 1, 0, 6, 5, 4)
FIRST_OF_HEAD = 1 + len(TAIL_CHANNELS) + 1 + len(BODY_CHANNELS)


class Bottleneck(nn.Module):
    """Pre-activation residual bottleneck: (B, in, h, w) → (B, out, h, w).

    With `squeeze` the shortcut sums groups of in/out adjacent channels (the up-sampling and
    refinement block, section 3.2) instead of convolving.
    """

    def __init__(self, inputs: int, outputs: int, squeeze: bool = False, dilation: int = 1) -> None:
        super().__init__()
        width = outputs // 4
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.group = inputs // outputs if squeeze else 1
        self.shortcut: nn.Module = nn.Identity()
        if not squeeze and inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.BatchNorm2d(inputs),
                nn.ReLU(inplace=True),
                nn.Conv2d(inputs, outputs, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, out, h, w) from (B, in, h, w)."""
        y = self.conv1(self.relu(self.bn1(x)))
        y = self.conv2(self.relu(self.bn2(y)))
        y = self.conv3(self.relu(self.bn3(y)))
        if self.group > 1:
            return y + x.unflatten(1, (-1, self.group)).sum(2)
        return y + self.shortcut(x)


def _blocks(
    inputs: int, outputs: int, count: int, squeeze: bool = False, dilation: int = 1
) -> nn.Sequential:
    first = Bottleneck(inputs, outputs, squeeze, dilation)
    return nn.Sequential(
        first, *(Bottleneck(outputs, outputs, dilation=dilation) for _ in range(count - 1))
    )


def _halve_channels(inputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, inputs // 2, 1, bias=False),
        nn.BatchNorm2d(inputs // 2),
        nn.ReLU(inplace=True),
    )


def _conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Bridge(nn.ModuleList):
    """From tail to body at 1/32: residual blocks weighted by channel attention (section 3.3)."""

    def __init__(self, channels: int, blocks: int) -> None:
        attention = nn.Sequential(
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(2 * channels, channels // 16, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 16, channels, 1),
            nn.Sigmoid(),
        )
        super().__init__(
            [
                _halve_channels(channels),
                nn.Conv2d(channels // 2, 2 * channels, 1),
                _blocks(2 * channels, channels, blocks),
                nn.Sequential(attention),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        halve, expand, blocks, attention = self
        x = expand(halve(x))
        weight = attention(x)
        return blocks(x) * weight + weight


class _Refinement(nn.ModuleList):
    """A stage of body or head: the resampled trunk and the refined map of an earlier stage."""

    def __init__(self, trunk: nn.Module, transfer: nn.Module, resample: nn.Module) -> None:
        super().__init__([trunk, transfer, resample])

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        return torch.cat([self[2](self[0](x)), self[1](earlier)], dim=1)


def _make_stages(block_counts: tuple[int, ...], transfer_counts: tuple[int, ...]) -> nn.ModuleList:
    """Create the ten stages of a fish, the last without its classifier."""
    stages: list[nn.Module] = []
    channels = [STEM_CHANNELS]
    counts = iter(block_counts)
    for outputs in TAIL_CHANNELS:
        stages.append(nn.Sequential(_blocks(channels[-1], outputs, next(counts)), nn.MaxPool2d(2)))
        channels.append(outputs)
    stages.append(_Bridge(channels[-1], next(counts)))
    channels.append(channels[-1])

    refined = zip(BODY_CHANNELS + HEAD_CHANNELS, TRANSFERRED, transfer_counts, strict=True)
    for level, (outputs, source, transfer_count) in enumerate(refined):
        in_body = level < len(BODY_CHANNELS)
        dilation = 2**level if in_body else 1
        trunk = _blocks(channels[-1], outputs, next(counts), squeeze=in_body, dilation=dilation)
        transfer = _blocks(channels[source], channels[source], transfer_count)
        resample = nn.Upsample(scale_factor=2) if in_body else nn.MaxPool2d(2)
        stages.append(_Refinement(trunk, transfer, resample))
        channels.append(outputs + channels[source])
    stages[-1].append(_halve_channels(channels[-1]))  # type: ignore[operator]
    return nn.ModuleList(stages)


class _Fish(nn.Module):
    def __init__(self, stages: nn.ModuleList) -> None:
        super().__init__()
        self.fish = stages


class FishNet(nn.Module):
    """FishNet: (B, 3, h, w), sides multiples of 32, → logits (B, num_classes).

    Args:
        block_counts: Residual blocks of the ten stages (3 tail, bridge, 3 body, 3 head).
        transfer_counts: Residual blocks on the earlier maps of the six stages of body and head.
        num_classes: Classes of the classifier. 0 means none; the forward pass returns pooled maps.
        in_chans: Colour channels of the input.
        global_pool: "avg", or "" for the unpooled map (only without a classifier).
        drop_rate: Dropout before the classifier.
    """

    def __init__(
        self,
        block_counts: tuple[int, ...],
        transfer_counts: tuple[int, ...],
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_features = self.head_hidden_size = FEATURE_CHANNELS
        self.drop_rate = drop_rate
        self.feature_info = [
            {"num_chs": 320, "reduction": 4, "module": "fish.fish.6"},
            {"num_chs": 832, "reduction": 8, "module": "fish.fish.7"},
            {"num_chs": 1600, "reduction": 16, "module": "fish.fish.8"},
            {"num_chs": FEATURE_CHANNELS, "reduction": 32, "module": "fish.fish.9.3"},
        ]
        half = STEM_CHANNELS // 2
        self.conv1 = _conv_bn_relu(in_chans, half, stride=2)
        self.conv2 = _conv_bn_relu(half, half)
        self.conv3 = _conv_bn_relu(half, STEM_CHANNELS)
        self.pool1 = nn.MaxPool2d(3, stride=2, padding=1)
        self.fish = _Fish(_make_stages(block_counts, transfer_counts))
        self._last_stage.append(nn.Sequential())
        self.reset_classifier(num_classes, global_pool)
        self._initialise()

    @property
    def _last_stage(self) -> nn.ModuleList:
        return self.fish.fish[-1]  # type: ignore[return-value]

    def _initialise(self) -> None:
        """Draw normal weights of variance 2 / (kernel area × outputs), as in the published code."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))

    def get_classifier(self) -> nn.Module:
        """Return the last 1 × 1 convolution, or an identity without classes."""
        return self._last_stage[4][1]  # type: ignore[index]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one of `num_classes`; 0 removes it."""
        if global_pool is not None:
            self.global_pool = global_pool
        if self.global_pool not in ("", "avg") or (num_classes and not self.global_pool):
            raise ValueError("global_pool is 'avg', or '' without classes")
        self.num_classes = num_classes
        pool = nn.AdaptiveAvgPool2d(1) if self.global_pool else nn.Identity()
        classifier = nn.Conv2d(FEATURE_CHANNELS, num_classes, 1) if num_classes else nn.Identity()
        reference = next(self.parameters())
        self._last_stage[4] = nn.Sequential(pool, classifier).to(reference.device, reference.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Raise if `enable`: FishNet does not support gradient checkpointing."""
        if enable:
            raise ValueError("FishNet does not support gradient checkpointing")

    def _pyramid(self, x: Tensor, count: int = 4) -> list[Tensor]:
        """Compute the first `count` of the four stages' maps."""
        _check_sides(*x.shape[-2:])
        maps = [self.pool1(self.conv3(self.conv2(self.conv1(x))))]
        for index, stage in enumerate(self.fish.fish):
            if index < len(TAIL_CHANNELS) + 1:
                maps.append(stage(maps[-1]))
            elif index < FIRST_OF_HEAD - 2 + count:
                source = TRANSFERRED[index - len(TAIL_CHANNELS) - 1]
                maps.append(stage(maps[-1], maps[source]))
        pyramid = maps[FIRST_OF_HEAD - 1 :]
        if count == len(self.feature_info):
            pyramid[-1] = self._last_stage[3](pyramid[-1])
        return pyramid

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the map (B, 1056, h/32, w/32) before pooling and classifier."""
        return self._pyramid(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Compute (B, num_classes) from (B, 1056, h, w); with `pre_logits` the pooled (B, 1056)."""
        pool = self._last_stage[4][0]  # type: ignore[index]
        x = nn.functional.dropout(pool(x), self.drop_rate, self.training)
        x = x if pre_logits else self.get_classifier()(x)
        return x.flatten(1) if self.global_pool else x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,  # noqa: ARG002 - timm's signature; the maps have no norm
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the last map computed, and those of chosen stages (0 … 3, or from the end)."""
        total = len(self.feature_info)
        assert output_fmt == "NCHW", "FishNet's maps are NCHW"
        if indices is None:
            indices = total
        chosen = list(range(total))[-indices:] if isinstance(indices, int) else list(indices)
        assert all(-total <= index < total for index in chosen), (
            f"feature index of {chosen} is out of range (0 to {total - 1})"
        )
        chosen = [index % total for index in chosen]
        maps = self._pyramid(x, max(chosen) + 1 if stop_early else total)
        intermediates = [maps[index] for index in chosen]
        return intermediates if intermediates_only else (maps[-1], intermediates)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (B, num_classes) of images (B, 3, h, w)."""
        return self.forward_head(self.forward_features(x))


def _check_sides(height: int, width: int) -> None:
    if height % STRIDE == 0 and width % STRIDE == 0:
        return
    candidates = [
        (max(low, STRIDE), low + STRIDE) if side % STRIDE else (side,)
        for side, low in ((side, side - side % STRIDE) for side in (height, width))
    ]
    sizes = sorted({f"{h}x{w}" for h in candidates[0] for w in candidates[1]})
    raise UserError(
        f"FishNet needs images whose sides are multiples of {STRIDE}, not {height}x{width} "
        f"(height x width). Pass one of the nearest that work: {', '.join(sizes)}."
    )


default_cfgs = generate_default_cfgs(
    {
        f"fishnet{depth}": {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "conv1.0",
            "classifier": "fish.fish.9.4.1",
        }
        for depth in (99, 150, 201)
    }
)


def _create(name: str, pretrained: bool, **options: Any) -> FishNet:  # noqa: ANN401 - timm's
    features = {"feature_cls": "getter", "out_indices": (0, 1, 2, 3)}
    return build_model_with_cfg(FishNet, name, pretrained, feature_cfg=features, **options)


@register_model
def fishnet99(pretrained: bool = False, **options: Any) -> FishNet:  # noqa: ANN401 - timm's
    """FishNet-99, 16.6 million parameters."""
    options |= {
        "block_counts": (2, 2, 6, 2, 1, 1, 1, 1, 2, 2),
        "transfer_counts": (1, 1, 1, 1, 1, 4),
    }
    return _create("fishnet99", pretrained, **options)


@register_model
def fishnet150(pretrained: bool = False, **options: Any) -> FishNet:  # noqa: ANN401 - timm's
    """FishNet-150, 25.0 million parameters."""
    options |= {
        "block_counts": (2, 4, 8, 4, 2, 2, 2, 2, 2, 4),
        "transfer_counts": (2, 2, 2, 2, 2, 4),
    }
    return _create("fishnet150", pretrained, **options)


@register_model
def fishnet201(pretrained: bool = False, **options: Any) -> FishNet:  # noqa: ANN401 - timm's
    """FishNet-201, 44.6 million parameters."""
    options |= {
        "block_counts": (3, 4, 12, 4, 2, 2, 2, 2, 3, 10),
        "transfer_counts": (2, 2, 2, 2, 2, 9),
    }
    return _create("fishnet201", pretrained, **options)
