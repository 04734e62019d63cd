"""Arguments of a training: what is refused, and what is used where none is given."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import numpy as np
from lightning.pytorch import Callback
from lightning.pytorch import Trainer as LightningTrainer
from scvi.model.base import UnsupervisedTrainingMixin
from scvi.train import Trainer, TrainingPlan

from scvenn._arguments import check_choice, check_names, check_number, check_positive

# scvi-tools' names of optimizers.
_OPTIMIZERS = ("Adam", "AdamW", "Custom")
# Lightning's names of float32 networks, with or without steps in half precision.
_PRECISIONS = ("32-true", "32", "16-mixed", "16", "bf16-mixed", "bf16")


def _names(function: Callable[..., Any]) -> set[str]:
    """Names of a function's arguments."""
    parameters = signature(function).parameters.values()
    named = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    return named - {"self"}


def check_arguments(
    *,
    batch_size: int,
    shuffle: str | None,
    checkpoint: Any,
    checkpoint_minutes: float,
    plan_kwargs: Mapping[str, Any] | None,
    trainer_kwargs: Mapping[str, Any],
    function: Callable[..., Any],
) -> None:
    """Refuse what would end in another error later, or in a model that is not trained.

    Parameters
    ----------
    batch_size, shuffle, checkpoint, checkpoint_minutes, plan_kwargs, trainer_kwargs
        Arguments of ``train``.
    function
        That method.
    """
    check_positive(batch_size=batch_size)
    if not (checkpoint is None or isinstance(checkpoint, str | os.PathLike)):
        raise ValueError(f"checkpoint={checkpoint!r}: expected a folder, or None.")
    check_number(
        "checkpoint_minutes", checkpoint_minutes, "a number of minutes, 0 or more", least=0
    )
    if plan_kwargs is not None and not isinstance(plan_kwargs, Mapping):
        raise ValueError(
            f"plan_kwargs={plan_kwargs!r}: expected a dictionary such as {{'lr': 1e-4}}."
        )
    of_plan = _names(TrainingPlan.__init__) - {"module", "loss_kwargs"}
    if misplaced := [name for name in trainer_kwargs if name in of_plan]:
        name = misplaced[0]
        raise ValueError(
            f"train({name}=...): pass it as plan_kwargs={{{name!r}: {trainer_kwargs[name]!r}}}."
        )
    functions = (
        function,
        UnsupervisedTrainingMixin.train,
        Trainer.__init__,
        LightningTrainer.__init__,
    )
    check_names("train", trainer_kwargs, of_plan.union(*map(_names, functions)))
    if unknown := [name for name in plan_kwargs or () if name not in of_plan]:
        raise ValueError(f"plan_kwargs: {unknown} not found; expected some of {sorted(of_plan)}.")
    if shuffle is not None:
        check_choice(("cells", "blocks"), shuffle=shuffle)
    _check_numbers(plan_kwargs or {}, trainer_kwargs)
    precision = trainer_kwargs.get("precision")
    if precision is not None and str(precision) not in _PRECISIONS:
        raise ValueError(
            f"precision={precision!r}: expected one of {list(_PRECISIONS)}. Networks and data "
            "are float32."
        )
    if trainer_kwargs.get("fast_dev_run"):
        raise ValueError(
            "fast_dev_run would leave a model that is not trained. To try a training, pass "
            "max_epochs=1."
        )


def _check_numbers(plan_kwargs: Mapping[str, Any], trainer_kwargs: Mapping[str, Any]) -> None:
    """Refuse numbers and names that PyTorch or Lightning would ignore, or refuse too late."""
    at_least_0 = "a number of 0 or more"
    for name in ("lr", "eps", "weight_decay"):
        if name in plan_kwargs:
            check_number(f"plan_kwargs[{name!r}]", plan_kwargs[name], at_least_0, least=0)
    for name in ("n_epochs_kl_warmup", "n_steps_kl_warmup"):
        if plan_kwargs.get(name) is not None:
            check_number(
                f"plan_kwargs[{name!r}]", plan_kwargs[name], f"None or {at_least_0}", least=0
            )
    if "optimizer" in plan_kwargs:
        check_choice(_OPTIMIZERS, **{"plan_kwargs['optimizer']": plan_kwargs["optimizer"]})
    if "accumulate_grad_batches" in trainer_kwargs:
        check_positive(accumulate_grad_batches=trainer_kwargs["accumulate_grad_batches"])
    if (most := trainer_kwargs.get("gradient_clip_val")) is not None:
        check_number("gradient_clip_val", most, f"None or {at_least_0}", least=0)
    if isinstance(logger := trainer_kwargs.get("logger"), str):
        raise ValueError(f"logger={logger!r}: expected a logger of Lightning, True or False.")


def check_splitter(datasplitter_kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments of the splitter that ``train`` has itself."""
    own = ("batch_size", "train_size", "validation_size", "shuffle_set_split")
    if misplaced := [name for name in own if name in datasplitter_kwargs]:
        raise ValueError(f"datasplitter_kwargs: {misplaced} are arguments of train() itself.")


def check_validation(
    plan: Mapping[str, Any], trainer: Mapping[str, Any], n_val: int, *, early_stopping: bool
) -> None:
    """Refuse to go by a record that some epoch does not have.

    Parameters
    ----------
    plan, trainer
        Arguments of the training plan and of the trainer.
    n_val
        Number of validation cells that are read.
    early_stopping
        Whether it was asked for.
    """
    if early_stopping and trainer["early_stopping_monitor"] is None:
        raise ValueError(
            "early_stopping_monitor=None: expected the name of a record. To train without early "
            "stopping, pass early_stopping=False."
        )
    if plan.get("reduce_lr_on_plateau") and (not n_val or trainer["check_val_every_n_epoch"] != 1):
        raise ValueError(
            "reduce_lr_on_plateau needs validation in each epoch: hold cells out, by train_size "
            "below 1, and leave out check_val_every_n_epoch."
        )


def as_callbacks(callbacks: Any) -> list[Callback]:
    """Callbacks that a user passed: one, several or none."""
    several = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
    if wrong := [one for one in several if not isinstance(one, Callback)]:
        raise ValueError(f"callbacks: expected callbacks of Lightning, found {wrong[0]!r}.")
    return several


def defaults(
    max_epochs: int,
    steps_per_epoch: int,
    plan_kwargs: Mapping[str, Any],
    trainer_kwargs: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the training plan and of the trainer: our defaults, and what users pass."""
    tenth = max(1, max_epochs // 10)
    plan = {
        "lr": 1e-3,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "n_epochs_kl_warmup": tenth,
        **plan_kwargs,
    }
    n_steps = plan.get("n_steps_kl_warmup")
    if n_steps is not None and "n_epochs_kl_warmup" not in plan_kwargs:
        plan["n_epochs_kl_warmup"] = None
    warmup = plan["n_epochs_kl_warmup"] or 0
    if n_steps and not warmup:  # counted as the optimizer's, each of one or more minibatches
        each = trainer_kwargs.get("accumulate_grad_batches", 1)
        warmup = -(-n_steps // -(-steps_per_epoch // each))
    trainer = {
        "check_val_every_n_epoch": 1,
        "log_every_n_steps": min(10, steps_per_epoch),
        "early_stopping_monitor": "validation_loss",
        "early_stopping_mode": "min",
        "early_stopping_patience": max(10, tenth),
        "early_stopping_warmup_epochs": warmup,
        **trainer_kwargs,
    }
    return plan, trainer


def default_max_epochs(steps_per_epoch: int) -> int:
    """Epochs that make about 4,000 steps, at least 20 and at most 400."""
    return int(np.clip(round(4000 / steps_per_epoch), 20, 400))
