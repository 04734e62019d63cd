"""How long a training will take, said once when that is long."""

from __future__ import annotations

import logging
import time

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

logger = logging.getLogger("scvi.scvenn")

# Seconds; of shorter trainings nothing is said.
_LONG = 60


class Duration(Callback):
    """After the first epoch, log how long all epochs will take if that is more than a minute."""

    _start: float | None = None
    _said: bool = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time the first epoch, its validation included, when the second begins."""
        if self._said:
            return
        now = time.perf_counter()
        if self._start is None:
            self._start = now
            return
        self._said = True
        n_epochs, seconds = trainer.max_epochs or 0, now - self._start
        if n_epochs * seconds < _LONG:
            return
        or_less = ", or less if early stopping ends them" if trainer.early_stopping_callback else ""
        logger.info(
            "The first epoch took %s; %d epochs take about %s%s.",
            readable(seconds),
            n_epochs,
            readable(n_epochs * seconds),
            or_less,
        )


def readable(seconds: float) -> str:
    """A time in seconds, minutes or hours, whichever has the shortest number."""
    units = {"s": 1, "min": 60, "h": 3600}
    unit = next((unit for unit, size in units.items() if seconds < 90 * size), "h")
    number = seconds / units[unit]
    return f"{number:.1f} {unit}" if number < 10 else f"{number:.0f} {unit}"
