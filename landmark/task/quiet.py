"""Leaves out what Lightning says of itself: a run has a summary of its own."""

import logging
import warnings

_KNOWN = (
    ".*Experiment logs directory",
    ".*LeafSpec",
    ".*does not have many workers",
    ".*smaller than the logging",
    ".*dataloader is not resumable",  # ours is, by the batch sampler's start batch
    ".*Checkpoint directory",
    ".*overrides the configure_model",  # which shares out class centres before they are averaged
)


def quieten() -> None:
    """Silences notices and the warnings that are known to need nothing of the user."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for words in _KNOWN:
        warnings.filterwarnings("ignore", words)
