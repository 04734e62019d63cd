"""What training adds to scvi-tools' runner.

A richer history; a check that the loss is finite; and one way to end, whatever ended the training:
the networks return to the best epoch, ready for their read-outs.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from scvi.dataloaders import DataSplitter
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan, TrainRunner
from scvi.train._logger import SimpleLogger
from torch import Tensor
from torch.nn import Module
from torch.nn.utils import get_total_norm
from torch.optim import Adam, Optimizer

from scvenn._processes import one_step_of_all
from scvenn.data import Tensors, hashes_of
from scvenn.models.checkpoint import Checkpoint
from scvenn.models.divergence import Diverged, broken_parts
from scvenn.models.history import Records
from scvenn.models.messages import HowItEnded, LossBar
from scvenn.models.processes import once, weight_in_step

logger = logging.getLogger("scvi.scvenn")
# what is kept after Ctrl-C concerns those who go on with the model, and not the command line
interrupts = logging.getLogger("scvi.scvenn.interrupts")

# How many times as fast as other parameters dispersions learn, and how fast at most.
_FASTER, _FASTEST = 10, 1e-2

# Where each loss is looked at; elsewhere that would have the device wait for the host.
_CHECKED_IN_EACH_STEP = ("cpu",)

Weights = dict[str, Tensor]


class HistoryPlan(TrainingPlan):
    """scvi-tools' plan with a richer history that costs little.

    It also records what concerns some cells of a minibatch only, and logs once an epoch: logging
    each minibatch takes a fifth of a step of a small model.
    """

    def get_optimizer_creator(self) -> Callable[[Iterable[Tensor]], Optimizer]:
        """Adam in its fused form: one pass over the parameters instead of a dozen."""
        if self.optimizer_name != "Adam":
            return super().get_optimizer_creator()
        return self._adam

    def _adam(self, parameters: Iterable[Tensor]) -> Adam:
        # Lightning clips no gradients of a fused optimizer in mixed precision
        is_mixed = str(self.trainer.precision).endswith("-mixed")
        fused = not (is_mixed and self.trainer.gradient_clip_val is not None)
        likelihoods = [self.module.likelihood(m) for m in self.module.modalities]
        fast = {id(p) for likelihood in likelihoods for p in likelihood.dispersions()}
        of_networks: list[Tensor] = []
        of_noise: list[Tensor] = []
        for parameter in parameters:
            (of_noise if id(parameter) in fast else of_networks).append(parameter)
        groups: list[dict[str, Any]] = [{"params": of_networks}]
        if of_noise:
            rate = max(self.lr, min(_FASTER * self.lr, _FASTEST))
            groups[0]["name"] = "networks"
            groups.append({"name": "dispersions", "params": of_noise, "lr": rate})
        return Adam(groups, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay, fused=fused)

    def initialize_train_metrics(self) -> None:
        """Start counting the training cells of an epoch."""
        self.train_metrics = _Means()

    def initialize_val_metrics(self) -> None:
        """Start counting the validation cells of an epoch."""
        self.val_metrics = _Means()
        self.misses: dict[str, Any] = {}  # of cross-view predictions, by modality

    def on_train_epoch_start(self) -> None:
        """Train mode: a read-out in a callback, between two epochs, leaves the other one."""
        self.module.train()

    def training_step(self, batch: Tensors, batch_idx: int) -> Tensor:
        """Score a minibatch of training cells, whose gradient is to be followed."""
        if "kl_weight" in self.loss_kwargs:
            self.loss_kwargs["kl_weight"] = self.kl_weight
        several = self.trainer.world_size > 1
        with one_step_of_all(several):
            loss = self._counted(batch, self.train_metrics)[1].loss
        return loss * weight_in_step(self.trainer, batch_idx) if several else loss

    def validation_step(self, batch: Tensors, batch_idx: int) -> None:
        """Score a minibatch of validation cells, and see by how much predictions miss them."""
        generated, _ = self._counted(batch, self.val_metrics)
        for m, misses in generated["misses"].items():
            self.misses[m] = self.misses.get(m, 0.0) + misses

    def _counted(self, batch: Tensors, means: _Means) -> tuple[dict[str, Any], LossOutput]:
        """Outputs for a minibatch, after counting its cells; logging waits for the epoch's end."""
        _, generated, output = self.forward(batch, loss_kwargs=self.loss_kwargs)
        in_each_step = output.loss.device.type in _CHECKED_IN_EACH_STEP
        # several processes look at the end of an epoch, and stop together
        if in_each_step and self.trainer.world_size == 1 and not output.loss.isfinite():
            self._stop(batch, output, means)
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
            means.batch, means.losses = batch, means.losses + output.loss.detach()
        return generated, output

    def _stop(self, batch: Tensors, output: Any, means: _Means) -> None:
        """Raise an error that names what is not finite in a minibatch."""
        broken = broken_parts(self.module, batch, output)
        raise Diverged(self.current_epoch, means is self.val_metrics, broken, self.lr)

    @torch.no_grad()
    def _check(self, means: _Means) -> None:
        """Raise an error unless all losses of an epoch were finite, and the weights are."""
        if means.batch is None:
            return
        losses = means.losses + get_total_norm(self.module.parameters())
        if self.use_sync_dist:
            losses = self.all_gather(losses).sum()
        if not losses.isfinite():
            self._stop(
                means.batch, self.forward(means.batch, loss_kwargs=self.loss_kwargs)[2], means
            )

    def on_train_epoch_end(self) -> None:
        """Record the means over the training cells."""
        self._check(self.train_metrics)
        extra = {"kl_weight": self.loss_kwargs.get("kl_weight", 1.0)}
        self._record(self.train_metrics, "train", extra)

    def on_validation_epoch_end(self) -> None:
        """Record the means over the validation cells."""
        self._check(self.val_metrics)
        self._record(self.val_metrics, "validation")
        for m, misses in self.misses.items():
            total = self.all_gather(misses).sum(0) if self.use_sync_dist else misses
            self.module.likelihood(m).set_held_out_noise(total)
        self.misses.clear()

    def _record(self, means: _Means, mode: str, extra: Mapping[str, float] | None = None) -> None:
        totals = means.totals
        if totals is not None and not self.trainer.sanity_checking:
            if self.use_sync_dist:
                totals = self.all_gather(totals).sum(0)
            averages = totals[0] / totals[1]  # NaN for what concerns no cell
            values = dict(zip(means.names, averages, strict=True))
            # the loss is shown by the progress bar, and scvi-tools calls it by its mode first
            loss, shown = values.pop("loss"), mode == "train"
            self.log(f"{mode}_loss", loss, prog_bar=shown, sync_dist=self.use_sync_dist)
            # The rest goes past Lightning's bookkeeping, which takes longer than a small step.
            self.trainer.callback_metrics.update({f"{k}_{mode}": v for k, v in values.items()})
            numbers = dict(zip(means.names, averages.tolist(), strict=True))
            numbers = {f"{k}_{mode}": numbers[k] for k in values}
            for of_user in self.trainer.loggers:
                of_user.log_metrics(
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
        self.losses: Tensor | float = 0.0  # their sum, which is not finite where one is not
        self.batch: Tensors | None = None  # the last one

    def add(self, values: dict[str, Tensor]) -> None:
        """Add a minibatch: for each name a tensor (B,), NaN for cells it does not concern."""
        stacked = torch.stack(list(values.values()))  # (names, B)
        totals = torch.stack([stacked.nansum(1), (~stacked.isnan()).sum(1)])
        self.names = list(values)
        self.totals = totals if self.totals is None else self.totals + totals


class KeptEpoch(Callback):
    """The weights to return to: those of the best epoch so far, or of the last that finished.

    Only epochs that came to their end count, with all their records in the history.

    Parameters
    ----------
    monitor
        Name of the record to watch; None to keep the last epoch.
    mode
        Whether less (``"min"``) or more (``"max"``) is better.
    warmup_epochs
        Epochs at the start of which none is the best.
    """

    def __init__(
        self, monitor: str | None, mode: Literal["min", "max"], warmup_epochs: int
    ) -> None:
        self.monitor = monitor
        self.sign = 1 if mode == "min" else -1
        self.warmup_epochs = warmup_epochs
        self.least = torch.inf
        self.n_finished = 0
        self.epoch = -1  # the best one; the last one where there is none
        self.weights: Weights | None = None
        self._better: tuple[int, Weights] | None = None  # until its epoch has finished

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights if no epoch was better."""
        epoch = trainer.current_epoch
        if self.monitor is None or trainer.sanity_checking:
            return
        # those of training cells would be of the epoch before
        of_training = ("_train", "train_loss")
        known = [name for name in trainer.callback_metrics if not name.endswith(of_training)]
        if self.monitor not in known:
            raise ValueError(
                f"early_stopping_monitor={self.monitor!r} is not recorded of validation cells. "
                f"Expected one of {sorted(known)}."
            )
        if epoch < self.warmup_epochs:
            return
        value = self.sign * float(trainer.callback_metrics[self.monitor])
        if value < self.least:
            self.least, self._better = value, (epoch, weights_of(pl_module))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the epoch before; without a best one, keep its weights."""
        self._count(trainer)
        if self.epoch < 0:
            self.weights = weights_of(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the last epoch, whose weights need not be kept."""
        self._count(trainer)
        if self.epoch < 0:
            self.weights = None

    def _count(self, trainer: Trainer) -> None:
        if self._better is not None:
            (self.epoch, self.weights), self._better = self._better, None
        self.n_finished = trainer.current_epoch

    def restore(self, module: Module) -> None:
        """Put the kept weights back, and hold them no longer."""
        if self.weights is not None:
            module.load_state_dict(self.weights)
            self.weights = None

    @property
    def summary(self) -> str:
        """What is left of a training that did not come to its end."""
        if self.n_finished == 0:
            return "No epoch was finished: the networks have learned nothing from train()."
        which = "the last that finished" if self.epoch < 0 else "the best so far"
        epoch = range(self.n_finished)[self.epoch]
        return (
            f"The model is trained and has the weights of epoch {epoch} (the first is 0), {which}. "
            "Embeddings were not written: call model.embed()."
        )


def weights_of(plan: LightningModule) -> Weights:
    """A copy of the weights of the networks that are trained."""
    state = cast(Module, plan.module).state_dict()
    return {name: tensor.detach().clone() for name, tensor in state.items()}


class BeforeTraining(Callback):
    """Do something with the training cells before there is an optimiser.

    Parameters
    ----------
    action
        Takes the positions of the training cells, and the trainer.
    """

    def __init__(self, action: Callable[[np.ndarray, Trainer], None]) -> None:
        self.action = action

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Do it; the networks may still change their shape."""
        splitter = cast(DataSplitter, trainer.datamodule)  # type: ignore[attr-defined]
        self.action(np.asarray(splitter.train_idx), trainer)


class Runner(TrainRunner):
    """scvi-tools' runner, with one way to end: the model is usable whatever ended the training.

    Parameters
    ----------
    *args, **kwargs
        As those of :class:`scvi.train.TrainRunner`.
    kept
        The callback that holds the weights to return to.
    checkpoint
        The callback that writes the state of the training, if any does.
    callbacks
        Further callbacks.
    """

    def __init__(
        self,
        *args: Any,
        kept: KeptEpoch,
        checkpoint: Checkpoint | None = None,
        callbacks: Sequence[Callback] = (),
        **kwargs: Any,
    ) -> None:
        self.kept, self.ended, self.records = kept, HowItEnded(), Records()
        # first, so that it has counted an epoch whatever the others do
        own = [kept, self.ended]
        if checkpoint is not None:
            checkpoint.runner = self
            own.append(checkpoint)
        super().__init__(*args, callbacks=[*own, *callbacks], **kwargs)
        LossBar.put_into(self.trainer)
        if type(self.trainer.logger) is not SimpleLogger:
            # model.history is kept beside the loggers of the user
            self.trainer.loggers = [SimpleLogger(), *self.trainer.loggers]
        self.trainer.logger._experiment = self.records

    def _run_training_core(self) -> None:
        """Train. An error, and Ctrl-C, go on to the caller once the model is in order."""
        on_interrupt = signal.getsignal(signal.SIGINT)
        try:
            try:
                self.trainer.fit(self.training_plan, self.data_splitter, ckpt_path=self.ckpt_path)
            finally:
                self._end()
            self.model.history_ = once(self.trainer, lambda: self.model.history_)
            self.ended.say(self.kept.epoch)
        except Diverged as error:
            splitter = self.data_splitter
            rows = splitter.val_idx if error.validation else splitter.train_idx
            raise ValueError(
                f"{error.explain(self.model, np.asarray(rows))} {self.kept.summary}"
            ) from None
        except SIGTERMException:  # with which Python would exit as if all had gone well
            interrupts.warning("SIGTERM ended training. %s", self.kept.summary)
            raise SystemExit(128 + signal.SIGTERM) from None
        except SystemExit as stopped:
            # Lightning exits after Ctrl-C, and leaves the signal ignored
            if not isinstance(stopped.__context__, KeyboardInterrupt):
                raise
            signal.signal(signal.SIGINT, on_interrupt or signal.default_int_handler)
            interrupts.warning("Training was interrupted. %s", self.kept.summary)
            raise KeyboardInterrupt from None
        except BaseException as error:
            logger.warning("%s ended training. %s", type(error).__name__, self.kept.summary)
            raise

    def _end(self) -> None:
        """Return to the weights to keep, in evaluation mode, and record what they are of."""
        model, kept, splitter = self.model, self.kept, self.data_splitter
        kept.restore(model.module)
        # gradients and the optimiser's moments take three times the memory of the weights
        model.module.zero_grad()
        self.trainer.optimizers = []
        model.module.eval()
        several = self.trainer.world_size > 1
        model.to_device(self.trainer.strategy.root_device if several else self.device)
        if kept.n_finished == 0:
            return
        model.cells_ = hashes_of(model.adata.obs_names)
        trained = model.cells_[splitter.train_idx]
        model.trained_cells_ = np.union1d(model.trained_cells_, trained)
        n_before = len((model.history_ or {}).get("train_loss", ())) if model.is_trained_ else 0
        self._update_history(n_before)
        model.best_epoch_ = kept.epoch if kept.epoch < 0 else n_before + kept.epoch
        model.train_indices, model.validation_indices, model.test_indices = (
            splitter.train_idx,
            splitter.val_idx,
            splitter.test_idx,
        )
        model.is_trained_ = True
        model.trainer = self.trainer
        model._forget_estimates()  # of the networks before

    def _update_history(self, n_before: int) -> None:
        """Add the records of the epochs that finished to those of ``n_before`` earlier ones.

        The first of several processes has them all.
        """
        if not self.trainer.is_global_zero:
            return
        history = getattr(self.trainer.logger, "history", None) or {}
        before = {name: table.index for name, table in (self.model.history_ or {}).items()}
        for name, records in history.items():
            if records.index.name == "epoch":
                history[name] = records[records.index < self.kept.n_finished]
        epochs = {name: table.index for name, table in history.items()}
        super()._update_history()
        if not n_before or not isinstance(self.model.history_, dict):
            return
        for name, index in epochs.items():  # scvi-tools counts records, which may skip epochs
            if name in before and index.name == "epoch":
                table = self.model.history_[name]
                table.index = before[name].append(index + n_before).rename("epoch")


@contextmanager
def single_precision(module: Module) -> Iterator[None]:
    """Networks in float32, and new layers as well, whatever PyTorch's default is."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        module.float()
        yield
    finally:
        torch.set_default_dtype(default)


@contextmanager
def step(name: str, outcome: str, *, caller: str = "train") -> Iterator[None]:
    """A step before or after the training of the networks; an error in it names the step.

    Parameters
    ----------
    name
        Of the step.
    outcome
        What the model is if the step fails.
    caller
        The method whose step it is.

    Raises
    ------
    ValueError
        If a computation fails.
    """
    try:
        yield
    except (ValueError, ArithmeticError, torch.linalg.LinAlgError) as error:
        reason = str(error).removesuffix(".")
        raise ValueError(f"{caller}() failed while {name}: {reason}. {outcome}") from error
