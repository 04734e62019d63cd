"""Training on several devices: one process for each, by Lightning's DDP.

The processes read parts of the same minibatches, whose gradients are those of all of their cells.
What is drawn or decided once (the split, the screening, the estimates after training) is computed
by the first process and sent to the others: these are equal to the last bit on any device, and no
random number must be drawn alike.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar, cast

import numpy as np
import scvi
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from scvi.model._utils import use_distributed_sampler
from scvi.train._callbacks import LoudEarlyStopping
from scvi.train._logger import SimpleLogger
from torch.utils.data import DataLoader, Sampler

T = TypeVar("T")

# Also for objectives that leave parameters without a gradient.
_DEFAULT = "ddp_find_unused_parameters_true"
_STRATEGIES = (_DEFAULT, "ddp_find_unused_parameters_false", "ddp")
# How long processes wait for what the first one computes.
_PATIENCE = timedelta(days=1)


def in_several_processes(devices: Any, trainer_kwargs: dict[str, Any]) -> bool:
    """Whether arguments of :meth:`train` ask for several processes.

    Parameters
    ----------
    devices
        As of :meth:`train`.
    trainer_kwargs
        Further arguments, to which those are added without which Lightning would not do so.

    Raises
    ------
    ValueError
        If they ask for processes that end with the training, or for several in a notebook.
    """
    strategy = trainer_kwargs.get("strategy") or "auto"
    several = devices not in ("auto", 1, "1") and not (
        isinstance(devices, list) and len(devices) < 2
    )
    several |= trainer_kwargs.get("num_nodes", 1) > 1
    if not (several or use_distributed_sampler(strategy)):
        return False
    if isinstance(strategy, DDPStrategy):
        name = f"DDPStrategy(start_method={strategy._start_method!r})"
        supported = strategy._start_method == "popen"
    else:
        strategy = _DEFAULT if strategy == "auto" else strategy
        name, supported = repr(strategy), strategy in _STRATEGIES
    if not supported:
        raise ValueError(
            f"strategy={name}: expected one of {list(_STRATEGIES)}, or a DDPStrategy that starts "
            "processes from a script. Others leave no trained model in the process that called "
            "train()."
        )
    if hasattr(sys, "ps1") or sys.flags.interactive:
        raise ValueError(
            f"devices={devices!r} and strategy={name} start this program once more for each "
            "device, which cannot be done with a notebook or an interactive session. Put the lines "
            "from reading the data to model.save() into a file, run it with "
            "`python train.py`, and load the model here; or train on one device, devices=1."
        )
    trainer_kwargs |= {"strategy": strategy, "use_distributed_sampler": False}
    return True


def once(trainer: Trainer, compute: Callable[[], T]) -> T:
    """What ``compute`` returns or raises in the first process, in all processes of a training."""
    if trainer.world_size == 1:
        return compute()
    outcome: list[Any] = [None, None]
    if trainer.is_global_zero:
        try:
            outcome[0] = compute()
        except Exception as error:  # raised in all processes, whatever it is
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0, group=_patient_group(dist.group.WORLD))
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


@lru_cache(maxsize=1)
def _patient_group(world: Any) -> Any:
    """All processes, which wait for each other on CPU: Lightning's own give up after a while."""
    return dist.new_group(backend="gloo", timeout=_PATIENCE)


class Together(Callback):
    """Has the processes of a training agree on its split and its order, and end it together.

    Parameters
    ----------
    found
        The seed and the number of processes of a training to go on with; None for a new one.
    """

    def __init__(self, found: tuple[int, int] | None) -> None:
        self.found = found
        self._random = torch.get_rng_state()
        self.state = (0, 0)  # the seed and the number of processes, for a checkpoint

    @staticmethod
    def arguments(trainer_kwargs: dict[str, Any], *, early_stopping: bool) -> dict[str, Any]:
        """Arguments of scvi-tools' trainer with what it leaves out in several processes.

        That is early stopping, which works where all have the same records, and records that are
        not written to a file of their own.

        Parameters
        ----------
        trainer_kwargs
            The arguments in one process.
        early_stopping
            Whether to stop early.
        """
        callbacks = [*trainer_kwargs["callbacks"]]
        if early_stopping:
            names = ("monitor", "mode", "patience", "warmup_epochs", "min_delta")
            given = {name: trainer_kwargs.get(f"early_stopping_{name}") for name in names}
            callbacks.append(LoudEarlyStopping(**{k: v for k, v in given.items() if v is not None}))
        logger = trainer_kwargs.get("logger")
        return {
            "callbacks": callbacks,
            "logger": SimpleLogger() if logger is None else logger,
            "log_every_n_steps": 1,  # an epoch has fewer steps than in one process
        }

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take over the split and the seed of the first process."""
        torch.set_rng_state(self._random)  # Lightning went back to the state after the last seed
        splitter: Any = trainer.datamodule  # type: ignore[attr-defined]
        parts = ("train_idx", "val_idx", "test_idx")
        split = once(trainer, lambda: [getattr(splitter, part) for part in parts])
        for part, rows in zip(parts, split, strict=True):
            setattr(splitter, part, rows)
        n_processes = trainer.world_size
        for kind, rows in zip(("training", "validation"), split, strict=False):
            if 0 < len(rows) < n_processes:
                raise ValueError(
                    f"{len(rows)} {kind} cells for {n_processes} processes; expected at least as "
                    "many, or none. Train on fewer devices."
                )
        if self.found is not None and self.found[1] != n_processes:
            raise ValueError(
                f"The checkpoint is of a training in {self.found[1]} processes, and there are "
                f"{n_processes}. Train on as many devices as then to go on, or pass another "
                "folder to start anew."
            )
        with torch.random.fork_rng(devices=[]):  # new layers start as in one process
            seed = once(trainer, lambda: int(torch.randint(2**31, ()).item()))
        self.state = (seed if self.found is None else self.found[0], n_processes)
        splitter.seed_of_order = self.state[0]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let SIGTERM end the training of all after the same step.

        Lightning's own handler sends messages while other ones may be under way. Before each step
        the first process tells the others whether it received the signal.
        """

        def remember(*_: Any) -> None:
            trainer._signal_connector.received_sigterm = trainer.is_global_zero

        trainer._signal_connector._register_signal(signal.SIGTERM, remember)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give each process random numbers of its own, which depend on the epoch alone."""
        parts = np.random.SeedSequence([self.state[0], trainer.current_epoch, trainer.global_rank])
        torch.manual_seed(int(parts.generate_state(1, np.uint64)[0] >> 1))


class Part(Sampler[list[int]]):
    """The cells of one process, of minibatches that several processes read together.

    A minibatch of P processes has P times ``batch_size`` cells, of which each reads every P-th. The
    last one has fewer, and no cell is read twice; where not every process would have one,
    its cells join the minibatch before.

    Parameters
    ----------
    n_cells
        Number of cells.
    batch_size
        Cells of a process in one minibatch.
    seed
        From which the order of the cells in each epoch is drawn; None for the order as it is.
    rank, n_processes
        Which process, of how many.
    drop_last
        Whether to leave out a last minibatch with fewer cells.
    """

    def __init__(
        self,
        n_cells: int,
        batch_size: int,
        *,
        seed: int | None,
        rank: int,
        n_processes: int,
        drop_last: bool = False,
    ) -> None:
        self.n_cells, self.seed = n_cells, seed
        self.rank, self.n_processes = rank, n_processes
        self.epoch = 0
        whole, rest = divmod(n_cells, batch_size * n_processes)
        self.sizes = [batch_size * n_processes] * whole
        if rest and not drop_last:
            if rest < n_processes and whole:
                self.sizes[-1] += rest
            else:
                self.sizes.append(rest)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.n_cells)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        start = 0
        for size in self.sizes:
            yield order[start : start + size][self.rank :: self.n_processes].tolist()
            start += size

    def weight(self, batch: int) -> float:
        """Of the mean over this process's cells of a minibatch, in the mean of such means."""
        size = self.sizes[batch]
        own = len(range(self.rank, size, self.n_processes))
        return own * self.n_processes / size


def loader_of_part(splitter: Any, rows: np.ndarray, *, shuffle: bool) -> DataLoader:
    """Loader of what this process reads of some cells.

    Parameters
    ----------
    splitter
        The splitter of a training in several processes.
    rows
        Positions of the cells that all processes read together.
    shuffle
        Whether in an order that is drawn anew in each epoch.
    """
    trainer: Trainer = splitter.trainer
    options = {**splitter.data_loader_kwargs}
    options.pop("distributed_sampler")
    sampler = Part(
        len(rows),
        options.pop("batch_size"),
        seed=splitter.seed_of_order if shuffle else None,
        rank=trainer.global_rank,
        n_processes=trainer.world_size,
        drop_last=splitter.drop_last and shuffle,
    )
    dataset = splitter.adata_manager.create_torch_dataset(
        indices=rows, load_sparse_tensor=splitter.load_sparse_tensor
    )
    workers = {
        "num_workers": scvi.settings.dl_num_workers,
        "persistent_workers": scvi.settings.dl_persistent_workers,
        "pin_memory": splitter.pin_memory,
    }
    return DataLoader(dataset, sampler=sampler, batch_size=None, **(workers | options))


def weight_in_step(trainer: Trainer, batch: int) -> float:
    """Of the loss of this process's cells in a minibatch."""
    return cast(Part, cast(DataLoader, trainer.train_dataloader).sampler).weight(batch)
