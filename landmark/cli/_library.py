"""Ranges of the arguments of libraries whose signatures only have types."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

_Fraction = Annotated[float, Field(ge=0, le=1)]
_BelowOne = Annotated[float, Field(ge=0, lt=1)]
_PositiveFraction = Annotated[float, Field(gt=0, le=1)]
_Devices = Annotated[int, Field(ge=1, le=1024)]
_Precision = Literal[
    64, 32, 16, "64", "32", "16", "bf16", "64-true", "32-true", "16-true", "16-mixed",
    "bf16-true", "bf16-mixed", "transformer-engine", "transformer-engine-float16",
]  # fmt: skip
_MinusOneOrMore = Annotated[int, Field(ge=-1)]

_OPTIMIZER = {"lr": NonNegativeFloat, "weight_decay": NonNegativeFloat, "eps": NonNegativeFloat}

# Target → argument → annotation. Targets and arguments without a range are checked by type.
ANNOTATIONS: Mapping[str, Mapping[str, Any]] = {
    "pytorch_lightning.Trainer": {
        "accelerator": str,
        "strategy": str,
        "profiler": str | None,
        # auto is resolved by train, see landmark.task.precision.
        "precision": Literal["auto"] | _Precision | None,
        "devices": Literal[-1] | _Devices | str | list[NonNegativeInt],
        "num_nodes": Annotated[int, Field(ge=1, le=65536)],
        "max_epochs": _MinusOneOrMore | None,
        "max_steps": Literal[-1] | PositiveInt,
        "accumulate_grad_batches": PositiveInt,
        "gradient_clip_val": NonNegativeFloat | None,
        "check_val_every_n_epoch": PositiveInt | None,
        "val_check_interval": PositiveInt | _PositiveFraction | None,
        "log_every_n_steps": NonNegativeInt | None,
        "limit_train_batches": PositiveInt | _PositiveFraction | None,
        "limit_val_batches": NonNegativeInt | _Fraction | None,
        "overfit_batches": NonNegativeInt | _Fraction,
    },
    "torch.optim.SGD": {**_OPTIMIZER, "momentum": _Fraction, "dampening": _Fraction},
    "torch.optim.AdamW": {**_OPTIMIZER, "betas": tuple[_BelowOne, _BelowOne]},
    "pytorch_lightning.callbacks.EarlyStopping": {
        "patience": NonNegativeInt,
        "min_delta": NonNegativeFloat,
        "mode": Literal["min", "max"],
    },
    "pytorch_lightning.callbacks.EMAWeightAveraging": {
        "decay": _Fraction,
        "update_every_n_steps": PositiveInt,
        "update_starting_at_step": NonNegativeInt | None,
    },
    "pytorch_lightning.loggers.WandbLogger": {"group": str | None, "tags": list[str] | None},
    "pytorch_lightning.callbacks.LearningRateMonitor": {
        "logging_interval": Literal["step", "epoch"] | None,
    },
}
