"""The records of training, kept as numbers until they are read as tables."""

from __future__ import annotations

from typing import Any

import pandas as pd
from scvi.train._logger import SimpleExperiment

# What a time point may be called, the first that is there.
_TIME = ("step", "epoch")


class Records(SimpleExperiment):
    """What scvi-tools' logger writes to, without tables that grow by one entry at a time.

    These took a noticeable part of the training of a small model.
    """

    def __init__(self) -> None:  # that of the base class sets ``data``
        self._values: dict[str, dict[int, float]] = {}  # by metric and time point
        self._time: dict[str, str] = {}  # what the time points of a metric are
        self._tables: dict[str, pd.DataFrame] | None = None

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Record values at a step or epoch, which is among them."""
        self._tables = None
        values = dict(metrics)
        name = next((name for name in _TIME if name in values), "step")
        point = values.pop(name, step)
        for metric, value in values.items():
            self._time.setdefault(metric, name)
            self._values.setdefault(metric, {})[point] = float(value)

    @property
    def data(self) -> dict[str, pd.DataFrame]:
        """A table of one column for each metric."""
        if self._tables is None:
            self._tables = {
                metric: pd.DataFrame(
                    {metric: list(values.values())},
                    index=pd.Index(list(values), name=self._time[metric]),
                )
                for metric, values in self._values.items()
            }
        return self._tables
