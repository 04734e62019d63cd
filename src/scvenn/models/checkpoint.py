"""Checkpoints: a training that was killed goes on, and ends as if it had not been."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import NoneType
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn import Module
from torch.utils._pytree import tree_map

from scvenn._whole_files import make_folder
from scvenn.data import quoted
from scvenn.models.encoding import encode
from scvenn.models.processes import Together
from scvenn.models.value_file import read_values, write_values
from scvenn.screening import Screening

logger = logging.getLogger("scvi.scvenn")

FORMAT = "scvenn checkpoint"
# Raised by whatever changes what a file holds: a training goes on with the version that began it.
_PROTOCOL = 3
_TYPES = {
    "of": dict,
    "split": list,
    "screening": (dict, NoneType),
    "ended": bool,
    "state": dict,
    "tensors": dict,
}
# What changes in the course of a training: of the weights to return to, of early stopping, and of
# the records.
_KEPT = ("least", "n_finished", "epoch", "weights")
_STOPPING = ("wait_count", "stopped_epoch", "best_score", "_current_step", "early_stopping_reason")
_RECORDS = ("_values", "_time")
_PARTS = ("train", "val", "test")
# Letters of a long text that are shown.
_AROUND = 20
# Arguments of a training that change nothing but what is shown of it.
_SHOWN = ("enable_progress_bar",)


class Checkpoint(Callback):
    """Writes the state of a training between its epochs, or goes on from a written one.

    Parameters
    ----------
    folder
        Where the file is, ``checkpoint.safetensors``.
    minutes
        The least time from one writing to the next; the end of the training is written at once.
    of
        What the training is of: model, data, arguments and versions. A checkpoint of another one is
        refused.

    Raises
    ------
    ValueError
        If there is a checkpoint of another training, or one that is damaged.
    """

    runner: Any  # of the training, which sets itself
    together: Together | None = None  # of a training in several processes

    def __init__(self, folder: str | os.PathLike, minutes: float, of: Mapping[str, Any]) -> None:
        self.path = Path(folder) / "checkpoint.safetensors"
        make_folder(self.path.parent)
        self.minutes, self.of = minutes, of
        self.found: dict[str, Any] | None = None  # from which to go on
        self._written = time.monotonic()
        self._seeds: Any = None  # states of random numbers that are yet to be restored
        if self.path.is_file():
            self.found = read_values(self.path, format=FORMAT, protocols={_PROTOCOL: _TYPES})
            self._check()

    def _check(self) -> None:
        """Refuse a checkpoint of another training."""
        of = self.found["of"] if self.found else {}
        for name in sorted(of.keys() | self.of.keys()):
            was, now = of.get(name), self.of.get(name)
            if was != now:
                was, now = _apart(str(was), str(now))
                raise ValueError(
                    f"{self.path} was written by another training: {name} was {was} then "
                    f"and is {now} now. To go on with it, train as then. To start anew, "
                    "pass another folder or remove this one."
                )

    @property
    def split(self) -> list[np.ndarray] | None:
        """Training, validation and test cells of the training to go on with."""
        return None if self.found is None else self.found["split"]

    @property
    def screening(self) -> dict[str, Screening] | None:
        """Which features are shared, of the training to go on with."""
        return None if self.found is None else self.found["screening"]

    @property
    def found_together(self) -> tuple[int, int] | None:
        """Of a training in several processes to go on with, the state of :class:`Together`."""
        return None if self.found is None else self.found["state"].get("together")

    # ----------------------------------------------------------------- going on

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on where the checkpoint was written, if there is one."""
        if self.found is None:
            return
        state, module = self.found["state"], cast(Module, pl_module.module)
        tensors = tree_map(_as_tensor, self.found["tensors"])
        module.load_state_dict(tensors["weights"])
        for optimizer, moments, groups in zip(
            trainer.optimizers, tensors["moments"], state["groups"], strict=True
        ):
            new = optimizer.state_dict()["param_groups"]
            merged = [{**group, **saved} for group, saved in zip(new, groups, strict=True)]
            optimizer.load_state_dict({"state": moments, "param_groups": merged})
        for config, saved in zip(trainer.lr_scheduler_configs, state["schedulers"], strict=True):
            config.scheduler.load_state_dict(saved)
        for owner, values in (
            (self.runner.kept, tensors["kept"]),
            (trainer.early_stopping_callback, tensors["stopping"]),
            (self.runner.records, state["records"]),
        ):
            for name, value in values.items():
                if owner is not None:
                    setattr(owner, name, value)
        loop, (epoch, n_steps) = trainer.fit_loop, state["progress"]
        for name in ("ready", "started", "processed", "completed"):
            setattr(loop.epoch_progress.current, name, epoch)
        steps = loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
        steps.ready = steps.completed = loop.epoch_loop._batches_that_stepped = n_steps
        trainer.should_stop = self.found["ended"]
        self._seeds = state["seeds"]
        logger.info("Going on with epoch %d, from %s.", epoch, self.path)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is between two epochs, or restore the random numbers that come next."""
        if self._seeds is not None:
            set_seeds(self._seeds)
            self._seeds = None
        elif trainer.current_epoch and time.monotonic() - self._written >= 60 * self.minutes:
            self._write(trainer, pl_module, ended=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the end, unless that is where the training went on."""
        if self._seeds is not None:
            set_seeds(self._seeds)
        else:
            self._write(trainer, pl_module, ended=True)

    # ----------------------------------------------------------------- writing

    def _write(self, trainer: Trainer, pl_module: LightningModule, *, ended: bool) -> None:
        if not trainer.is_global_zero:
            return
        splitter, module = self.runner.data_splitter, cast(Module, pl_module.module)
        tensors = {
            "weights": dict(module.state_dict()),
            "moments": [optimizer.state_dict()["state"] for optimizer in trainer.optimizers],
            "kept": {name: getattr(self.runner.kept, name) for name in _KEPT},
            "stopping": {
                name: getattr(trainer.early_stopping_callback, name, None) for name in _STOPPING
            },
        }
        state = {
            "schedulers": [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs],
            "groups": [_numbers_of(optimizer.param_groups) for optimizer in trainer.optimizers],
            "records": {name: vars(self.runner.records)[name] for name in _RECORDS},
            "progress": (trainer.current_epoch, trainer.global_step),
            "seeds": get_seeds(),
            "together": None if self.together is None else self.together.state,
        }
        values = {
            "of": self.of,
            "split": [np.asarray(getattr(splitter, f"{part}_idx")) for part in _PARTS],
            "screening": self.runner.model.screening_,
            "ended": ended,
            "state": state,
            "tensors": tree_map(_as_array, tensors),
        }
        write_values(self.path, values, format=FORMAT, protocol=_PROTOCOL)
        self._written = time.monotonic()


def _numbers_of(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Learning rates and other numbers of an optimizer, which schedules change."""
    return [{k: v for k, v in group.items() if isinstance(v, int | float)} for group in groups]


def describe(model: Any, arguments: Mapping[str, Any]) -> dict[str, str]:
    """What a training is of: texts that must be the same for it to go on.

    Arguments that are no data, such as callbacks, and what is shown of a training may differ.
    """
    given = {**model.init_params_["non_kwargs"], **arguments}
    texts = {name: _text(value) for name, value in given.items() if name not in _SHOWN}
    found = model.adata_manager.found
    return {
        "the class": type(model).__name__,
        "the data": model.adata_manager.fingerprint.digest,
        **{f"the likelihood of {m!r}": found.likelihood(m) for m in found.modalities},
        "the classes of labels": quoted(found.classes, len(found.classes)),
        "the seed": str(model.seed_),
        **{f"the argument {name}": text for name, text in texts.items() if text is not None},
        **{f"the version of {name}": version for name, version in model.versions_.items()},
    }


def _text(value: Any) -> str | None:
    """A text that two values have in common only if they are the same; None for what is no data."""
    arrays: dict[str, np.ndarray] = {}
    try:
        text = json.dumps(encode(value, arrays, "value"))
    except TypeError:
        return None
    digests = [hashlib.sha256(values.tobytes()).hexdigest() for values in arrays.values()]
    return " ".join([text, *digests])


def _as_array(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _as_tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _apart(*texts: str) -> list[str]:
    """Texts that differ, cut to where they do if they are long."""
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    start = max(0, len(list(same)) - _AROUND)
    return [
        text
        if len(text) <= 2 * _AROUND
        else f"{'…' * (start > 0)}{text[start : start + 2 * _AROUND]}…"
        for text in texts
    ]


def get_seeds() -> dict[str, Any]:
    """States of all random numbers of this process."""
    return {
        "torch": torch.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in torch.cuda.get_rng_state_all()],
        "numpy": np.random.get_state(),  # noqa: NPY002
        "python": random.getstate(),
    }


def set_seeds(states: Mapping[str, Any]) -> None:
    """Go on with random numbers from states that were written."""
    torch.set_rng_state(torch.from_numpy(states["torch"]))
    torch.cuda.set_rng_state_all([torch.from_numpy(state) for state in states["cuda"]])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    random.setstate(states["python"])
