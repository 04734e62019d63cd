"""What training adds to scvi-tools' runner: a richer history, and a return to the best epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from scvi.dataloaders import DataSplitter
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan
from torch import Tensor
from torch.nn import Module
from torch.optim import Adam, Optimizer


class HistoryPlan(TrainingPlan):
    """scvi-tools' plan, which also records what concerns some cells of a minibatch only."""

    def get_optimizer_creator(self) -> Callable[[Iterable[Tensor]], Optimizer]:
        """Adam in its fused form: one pass over the parameters instead of a dozen."""
        if self.optimizer_name != "Adam":
            return super().get_optimizer_creator()
        return lambda parameters: Adam(
            parameters, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )

    def initialize_train_metrics(self) -> None:
        """Start counting the training cells of an epoch."""
        self.train_metrics = _Means()

    def initialize_val_metrics(self) -> None:
        """Start counting the validation cells of an epoch."""
        self.val_metrics = _Means()

    @torch.inference_mode()
    def compute_and_log_metrics(self, loss_output: LossOutput, metrics: _Means, mode: str) -> None:
        """Count a minibatch; what is logged at the end of an epoch costs nothing in between."""
        (reconstruction,) = loss_output.reconstruction_loss.values()
        (kl,) = loss_output.kl_local.values()
        metrics.add(
            {
                "elbo": reconstruction + kl,
                "reconstruction_loss": reconstruction,
                "kl_local": kl,
                **loss_output.extra_metrics,
            }
        )

    def on_train_epoch_end(self) -> None:
        """Log the means over the training cells."""
        self._log_means(self.train_metrics, "train")

    def on_validation_epoch_end(self) -> None:
        """Log the means over the validation cells."""
        self._log_means(self.val_metrics, "validation")

    def _log_means(self, means: _Means, mode: str) -> None:
        totals = means.totals
        if totals is not None:
            if self.use_sync_dist:
                totals = self.all_gather(totals).sum(0)
            values = totals[0] / totals[1].clamp(min=1)
            self.log_dict(
                {f"{name}_{mode}": v for name, v in zip(means.names, values, strict=True)}
            )
        means.reset()


class _Means:
    """Sums over the cells of an epoch, and how many cells each is over."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all cells."""
        self.names: list[str] = []
        self.totals: Tensor | None = None  # (2, number of names)

    def add(self, values: dict[str, Tensor]) -> None:
        """Add a minibatch: for each name a tensor (B,), NaN for cells it does not concern."""
        stacked = torch.stack(list(values.values()))  # (names, B)
        totals = torch.stack([stacked.nansum(1), (~stacked.isnan()).sum(1)])
        self.names = list(values)
        self.totals = totals if self.totals is None else self.totals + totals


class Splitter(DataSplitter):
    """scvi-tools' splitter, for which Lightning need not have validation cells."""

    def val_dataloader(self) -> Any:
        """Loader of the validation cells; none where there are no such cells."""
        loader = super().val_dataloader()
        return [] if loader is None else loader


class BestEpoch(Callback):
    """Return to the weights of the best epoch: by the time training stops, they are long past.

    Parameters
    ----------
    monitor
        Name of the record to watch.
    mode
        Whether less (``"min"``) or more (``"max"``) is better.
    warmup_epochs
        Epochs at the start that do not count.
    """

    def __init__(self, monitor: str, mode: Literal["min", "max"], warmup_epochs: int) -> None:
        self.monitor = monitor
        self.sign = 1 if mode == "min" else -1
        self.warmup_epochs = warmup_epochs
        self.best = torch.inf
        self.weights: dict[str, torch.Tensor] | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights if no epoch was better."""
        if trainer.sanity_checking or trainer.current_epoch < self.warmup_epochs:
            return
        value = self.sign * float(trainer.callback_metrics[self.monitor])
        if value < self.best:
            self.best = value
            state = cast(Module, pl_module.module).state_dict()
            self.weights = {name: tensor.detach().clone() for name, tensor in state.items()}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the best weights back."""
        if self.weights is not None:
            cast(Module, pl_module.module).load_state_dict(self.weights)
