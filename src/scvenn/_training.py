"""What training adds to scvi-tools' runner: a richer history, and a return to the best epoch."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from scvi.dataloaders import DataSplitter
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan
from torch.nn import Module


class HistoryPlan(TrainingPlan):
    """scvi-tools' plan, which also records what concerns some cells of a minibatch only."""

    @torch.inference_mode()
    def compute_and_log_metrics(
        self, loss_output: LossOutput, metrics: dict[str, Any], mode: str
    ) -> None:
        """Log what scvi-tools logs, and the mean of each extra metric over its cells."""
        super().compute_and_log_metrics(
            LossOutput(
                loss=loss_output.loss,
                reconstruction_loss=loss_output.reconstruction_loss,
                kl_local=loss_output.kl_local,
                n_obs_minibatch=loss_output.n_obs_minibatch,
            ),
            metrics,
            mode,
        )
        for name, values in loss_output.extra_metrics.items():
            known = ~values.isnan()  # (B,)
            # averaged over the epoch with the number of cells as weight, so 0 cells count nothing
            self.log(
                f"{name}_{mode}",
                torch.where(known, values, 0.0).sum() / known.sum().clamp(min=1),
                on_step=False,
                on_epoch=True,
                batch_size=int(known.sum()),
                sync_dist=self.use_sync_dist,
            )


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
