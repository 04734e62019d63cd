"""What a training says: what concerns its user, and nothing of how Lightning goes about it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from scvi.train._progress import ProgressBar

from scvenn._progress import bars_are_off

logger = logging.getLogger("scvi.scvenn")

# Loggers of libraries that report, as information, devices that are not there and the like.
_CHATTY = ("lightning.pytorch", "lightning.fabric", "scvi.data._download")
# Of Lightning and PyTorch about their own code and trainings without held-out cells, of PyTorch
# about networks that read no feature, and of scvi-tools about early stopping, which works here on
# several devices.
_FOREIGN = (
    r".*LeafSpec|Initializing zero-element tensors|early_stopping was automatically disabled"
    r"|Total length of `\w+` across ranks is zero"
    r"|torch\.distributed\.nn\.functional\.all_gather is deprecated"
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Show no information of Lightning and scvi-tools inside, but all of their warnings.

    Warnings that no user can act on are left out. A user's own levels and filters stay.
    """
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [one.level for one in loggers]
    try:
        for one in loggers:
            if one.getEffectiveLevel() == logging.INFO:
                one.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_FOREIGN)
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


class LossBar(ProgressBar):
    """A progress bar of epochs with the loss of training and of validation cells."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Losses as they are shown: Lightning's version of the run is nothing to a user."""
        known = trainer.callback_metrics
        losses = [name for name in ("train_loss", "validation_loss") if name in known]
        return {name: f"{float(known[name]):.1f}" for name in losses}

    @classmethod
    def put_into(cls, trainer: Trainer) -> None:
        """Replace the bar that scvi-tools gave a trainer, if it did."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        for k, callback in enumerate(callbacks):
            if type(callback) is ProgressBar:
                callbacks[k] = cls(callback.refresh_rate)
                if bars_are_off() or not trainer.is_global_zero:
                    callbacks[k].disable()


class HowItEnded(Callback):
    """How many epochs there were and why no more, in one line of the log."""

    reason: str = ""
    n_epochs: int = 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember it; scvi-tools would print what Lightning says of early stopping."""
        self.n_epochs = trainer.current_epoch
        stopping: Any = trainer.early_stopping_callback
        if getattr(stopping, "early_stopping_reason", None) is not None:
            stopping.early_stopping_reason = None
            self.reason = (
                f", until {stopping.monitor} had not improved in {stopping.wait_count} epochs"
            )

    def say(self, kept_epoch: int) -> None:
        """Log it, and of which epoch the weights are kept; below 0 for the last."""
        weights = (
            f" The model has the weights of epoch {kept_epoch} (the first is 0)."
            if 0 <= kept_epoch < self.n_epochs - 1
            else ""
        )
        logger.info("Trained %d epochs%s.%s", self.n_epochs, self.reason, weights)
