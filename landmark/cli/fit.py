"""Fit a whitening to a descriptor store; `landmark store apply` and extract.py apply it.

landmark fit fit=pca train=STORE output=FITTED fit.dim=128
landmark fit fit=pca train=STORE output=FITTED fit.power=0.25
landmark fit fit=whitening train=STORE output=FITTED
"""

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
    from landmark.artifact.descriptors import DescriptorStore
    from landmark.artifact.whitening import META, Whitening
    from landmark.disk.atomic import check_can_write
    from landmark.disk.lock import locked

    check_can_write(settings.output, settings.overwrite, marker=META)  # before a fit of minutes
    store = DescriptorStore.open(settings.train)
    with locked(settings.output):
        fitted: Whitening = instantiate(config.fit)(store)
        fitted.write(settings.output, settings.overwrite)
    print(f"{len(store):,} photos, {store.dim} → {fitted.dim}-d")
    print(f"wrote {settings.output}")
