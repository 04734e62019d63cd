"""What training adds to scvi-tools' runner: a richer history, and a return to the best epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from scvi.dataloaders import DataSplitter
from scvi.train import TrainingPlan
from torch import Tensor
from torch.nn import Module
from torch.optim import Adam, Optimizer


class HistoryPlan(TrainingPlan):
    """scvi-tools' plan with a richer history that costs little.

    It also records what concerns some cells of a minibatch only, and logs once an epoch: logging
    each minibatch takes a fifth of a step of a small model.
    """

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

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Score a minibatch of training cells, whose gradient is to be followed."""
        if "kl_weight" in self.loss_kwargs:
            self.loss_kwargs["kl_weight"] = self.kl_weight
        return self._counted(batch, self.train_metrics)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Score a minibatch of validation cells."""
        self._counted(batch, self.val_metrics)

    def _counted(self, batch: dict[str, Tensor], means: _Means) -> Tensor:
        """Loss of a minibatch, after counting its cells; logging waits for the epoch's end."""
        _, _, output = self.forward(batch, loss_kwargs=self.loss_kwargs)
        with torch.inference_mode():
            (reconstruction,) = output.reconstruction_loss.values()
            (kl,) = output.kl_local.values()
            means.add(
                {
                    "loss": output.loss.expand_as(kl),
                    "elbo": reconstruction + kl,
                    "reconstruction_loss": reconstruction,
                    "kl_local": kl,
                    **output.extra_metrics,
                }
            )
        return output.loss

    def on_train_epoch_end(self) -> None:
        """Record the means over the training cells."""
        extra = {"kl_weight": self.loss_kwargs.get("kl_weight", 1.0)}
        self._record(self.train_metrics, "train", extra)

    def on_validation_epoch_end(self) -> None:
        """Record the means over the validation cells."""
        self._record(self.val_metrics, "validation")

    def _record(self, means: _Means, mode: str, extra: Mapping[str, float] | None = None) -> None:
        totals = means.totals
        if totals is not None and not self.trainer.sanity_checking:
            if self.use_sync_dist:
                totals = self.all_gather(totals).sum(0)
            averages = totals[0] / totals[1]  # NaN for what concerns no cell
            values = dict(zip(means.names, averages, strict=True))
            # the loss is shown by the progress bar, and scvi-tools calls it by its mode first
            self.log(f"{mode}_loss", values.pop("loss"), prog_bar=mode == "train")
            # The rest goes past Lightning's bookkeeping, which takes longer than a small step.
            self.trainer.callback_metrics.update({f"{k}_{mode}": v for k, v in values.items()})
            numbers = dict(zip(means.names, averages.tolist(), strict=True))
            numbers = {f"{k}_{mode}": numbers[k] for k in values}
            for logger in self.trainer.loggers:
                logger.log_metrics(
                    {**numbers, **(extra or {}), "epoch": self.current_epoch}, step=self.global_step
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
        self.epoch = -1  # the last one, where none was better
        self.weights: dict[str, torch.Tensor] | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights if no epoch was better."""
        if trainer.sanity_checking or trainer.current_epoch < self.warmup_epochs:
            return
        value = self.sign * float(trainer.callback_metrics[self.monitor])
        if value < self.best:
            self.best, self.epoch = value, trainer.current_epoch
            state = cast(Module, pl_module.module).state_dict()
            self.weights = {name: tensor.detach().clone() for name, tensor in state.items()}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the best weights back."""
        if self.weights is not None:
            cast(Module, pl_module.module).load_state_dict(self.weights)


class BeforeTraining(Callback):
    """Do something with the training cells before there is an optimiser.

    Parameters
    ----------
    action
        Takes the positions of the training cells.
    """

    def __init__(self, action: Callable[[np.ndarray], None]) -> None:
        self.action = action

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Do it; the networks may still change their shape."""
        self.action(np.asarray(cast(DataSplitter, trainer.datamodule).train_idx))  # type: ignore[attr-defined]
