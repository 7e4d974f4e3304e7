"""Fit a whitening, adapter or pair model to a store, or a calibration to a recognition.

landmark fit fit=pca train=STORE output=FITTED fit.dim=128
landmark fit fit=pca train=STORE output=FITTED fit.power=0.25
landmark fit fit=whitening train=STORE output=FITTED
landmark fit fit=linear train=STORE output=FITTED
landmark fit fit=linear train=STORE output=FITTED loss@fit.loss=arcface fit.loss.margin=0.2
landmark fit fit=calibration train=RECOGNIZED output=FITTED
landmark fit fit=elvis train=STORE output=FITTED
landmark fit fit=ames train=STORE output=FITTED
landmark fit fit=ames train=STORE output=STUDENT fit.teacher=FITTED fit.bits=128

`landmark store apply` and extract.py apply a whitening or an adapter, recognize.py a calibration,
rerank.py a pair model. A pair model that was stopped resumes after its last complete epoch.
"""

import inspect
import typing
from dataclasses import dataclass

from hydra.utils import instantiate
from omegaconf import DictConfig

from landmark.cli._command import command


@dataclass(frozen=True)
class Fit:
    """Own settings of a fit; conf/fit.yaml describes them."""

    train: str
    output: str
    overwrite: bool


@command(Fit)
def main(settings: Fit, config: DictConfig) -> None:
    """Check the configuration, then fit."""
    from landmark.artifact.partial_store import clear
    from landmark.disk.atomic import check_can_write
    from landmark.disk.lock import locked

    fit = instantiate(config.fit)
    # The signature says which artifact is read, and which is written.
    types = typing.get_type_hints(fit.func)
    check_can_write(settings.output, settings.overwrite, marker=types["return"].marker)
    store = types["store"].open(settings.train)
    with locked(settings.output) as staging:
        resumes = "staging" in inspect.signature(fit.func).parameters
        if settings.overwrite:
            clear(staging)
        fitted = fit(store, staging=staging) if resumes else fit(store)
        fitted.write(settings.output, settings.overwrite)
        clear(staging)
    print(fitted.summary(store))
    print(f"wrote {settings.output}")
