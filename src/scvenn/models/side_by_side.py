"""Trainings side by side, each in a process and with one thread of its own."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import scvi
import torch
from anndata import AnnData
from mudata import MuData
from sklearn.utils.parallel import Parallel, delayed
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from scvenn._mudata import pull_on_update
from scvenn.data import find_column
from scvenn.models.checkpoint import get_seeds, set_seeds
from scvenn.models.messages import quiet_libraries

logger = logging.getLogger("scvi.scvenn")

T = TypeVar("T")

_COLUMNS = ("labels_key", "batch_key")
_LISTS = ("categorical_covariate_keys", "continuous_covariate_keys")


class Parcel(NamedTuple):
    """What models read of a MuData, which itself cannot be sent to another process.

    Large arrays are put where all processes read them, so that there is one copy of them.

    Parameters
    ----------
    modalities
        By name the matrix, the names of the cells and the names of the features.
    obs
        The columns of the set-up, of all cells.
    arguments
        Of the set-up.
    """

    modalities: dict[str, tuple[Any, pd.Index, pd.Index]]
    obs: pd.DataFrame
    arguments: dict[str, Any]

    @classmethod
    def of(cls, mdata: MuData, modalities: Sequence[str], arguments: dict[str, Any]) -> Parcel:
        """What a set-up with these arguments reads."""
        layers = arguments["layers"] or {}
        columns = {arguments[name]: name for name in _COLUMNS if arguments[name] is not None}
        columns |= {column: name for name in _LISTS for column in arguments[name] or ()}
        found = {key: find_column(mdata, key, f"{name}={key!r}") for key, name in columns.items()}
        packed = {}
        for m in modalities:
            part, layer = mdata[m], layers.get(m)
            matrix = part.X if layer is None else part.layers[layer]
            packed[m] = (matrix, part.obs_names, part.var_names)
        return cls(packed, pd.DataFrame(found, index=mdata.obs_names), arguments)

    def unpacked(self, model: type[Any]) -> MuData:
        """A MuData of it, set up for a class of models; its cells may be in another order."""
        layers = self.arguments["layers"] or {}
        parts = {}
        for m, (matrix, cells, names) in self.modalities.items():
            layer = layers.get(m)
            values = {"X": matrix} if layer is None else {"layers": {layer: matrix}}
            parts[m] = AnnData(
                obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=names), **values
            )
        with pull_on_update(False):
            mdata = MuData(parts)
            for column in self.obs:
                mdata.obs[column] = self.obs[column].reindex(mdata.obs_names)
        model.setup_mudata(mdata, **self.arguments)
        return mdata


@contextmanager
def alone(seed: int) -> Iterator[None]:
    """Inside, random numbers start from a seed, computations have one thread, and none is logged.

    Results depend on neither what ran before nor what runs beside.
    """
    states, before = get_seeds(), scvi.settings.seed
    n_threads, level = torch.get_num_threads(), logger.level
    try:
        with quiet_libraries(), threadpool_limits(1):
            logger.setLevel(logging.WARNING)
            torch.set_num_threads(1)
            scvi.settings.seed = seed
            yield
    finally:
        logger.setLevel(level)
        torch.set_num_threads(n_threads)
        scvi.settings._seed = before
        set_seeds(states)


def side_by_side(
    function: Callable[..., T], tasks: Iterable[Sequence[Any]], n_jobs: int
) -> Iterator[T]:
    """Results of a function for several arguments, in their order; an error is its first one.

    Parameters
    ----------
    function
        At the top level of a module.
    tasks
        Positional arguments, the last of which is a seed.
    n_jobs
        Processes at a time; 1 for this one, -1 for as many as there are cores.
    """
    parallel = Parallel(n_jobs=n_jobs, return_as="generator")
    outcomes = parallel(delayed(_attempt)(function, task) for task in tasks)
    for result, error in outcomes:
        if error is not None:
            with warnings.catch_warnings():  # that others were done or under way is no news
                warnings.filterwarnings("ignore", message=".*tasks")
                outcomes.close()
            raise error
        yield result


def _attempt(function: Callable[..., T], task: Sequence[Any]) -> tuple[T | None, Exception | None]:
    """The result or the error: joblib would put its own one around that."""
    *arguments, seed = task
    with alone(seed):
        try:
            return function(*arguments), None
        except Exception as error:  # raised by the process that waits, whatever it is
            return None, error
