"""How large latents should be: models of several sizes, compared on cells held out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import scvi
import torch
from mudata import MuData
from sklearn.model_selection import KFold

from scvenn._arguments import check_positive
from scvenn._progress import progress
from scvenn.data import AlignedManager, Keys, Registry, check_mudata, observed_cells
from scvenn.models.base import SharedPrivateModel
from scvenn.models.published import MMVAEpp
from scvenn.models.side_by_side import Parcel, side_by_side

# Arguments of models and trainings that differ between the trainings.
_OF_MODEL = ("n_shared", "n_private")
_OF_TRAINING = (
    *("train_size", "validation_size", "shuffle_set_split", "datasplitter_kwargs"),
    *("write_obsm", "checkpoint"),
)


class LatentSizes(NamedTuple):
    """What :func:`choose_latent_sizes` found.

    Parameters
    ----------
    choice
        ``n_shared`` and ``n_private``, as arguments of a model.
    table
        A row for each training: ``split``, ``n_shared``, ``n_private``, ``epoch``, and the means
        over the cells held out of ``log_likelihood_cross_view`` and ``elbo``, in nats. The higher
        both are the better: ``elbo`` has the sign of the paper, and the model's history that of
        scvi-tools, which is the opposite.
    """

    choice: dict[str, int]
    table: pd.DataFrame


def choose_latent_sizes(
    mdata: MuData,
    *,
    model: type[SharedPrivateModel] = MMVAEpp,
    n_shared: Sequence[int] = (2, 5, 10, 20),
    n_private: Sequence[int] = (10,),
    n_splits: int = 5,
    model_kwargs: Mapping[str, Any] | None = None,
    n_jobs: int | None = None,
    **train_kwargs: Any,
) -> LatentSizes:
    r"""Choose the sizes of the latents by how well views predict each other in cells held out.

    Every combination of sizes is trained ``n_splits`` times, each time without one part of the
    cells, the same parts for all (cross-validation). Then, with the one-standard-error rule (the
    smallest size that is not clearly worse than the best):

    1. ``n_shared`` by the log-likelihood of each modality given each other one, the sum of the
       pairs, averaged over the sizes of the private latents;
    2. ``n_private``, given that ``n_shared``, by the objective: no private latent is read across
       views, so that the first score hardly depends on their size.

    A size k is not clearly worse than the best, b, if its mean shortfall over the splits is at most
    the standard error of that mean,

    .. math::

        d_i = \mathrm{score}_i(b) - \mathrm{score}_i(k), \qquad
        \bar d \le \mathrm{sd}(d) / \sqrt{n_{\mathrm{splits}}}

    Parameters
    ----------
    mdata
        Data to train on, set up as it will be for the model. Cells that are to be tested on later
        must not be among it: pass a copy without them, ``mdata[others].copy()``.
    model
        Class of the models.
    n_shared, n_private
        Sizes to try. Each of ``n_private`` holds for all modalities.
    n_splits
        Number of parts that are held out in turn.
    model_kwargs
        Further arguments of the class.
    n_jobs
        Trainings at a time, in processes with one thread each, which together hold one copy of the
        data; -1 for as many as there are cores. None: one after the other, in this process and with
        all of its threads. With a seed, every number gives the same result to the last bit; None
        gives another one.
    **train_kwargs
        Further arguments of :meth:`SharedPrivateModel.train`, such as ``max_epochs``.

    Returns
    -------
    The choice, and the table behind it.

    Raises
    ------
    ValueError
        If sizes, ``n_splits`` or ``n_jobs`` make no sense, no cell held out has two modalities, or
            ``n_jobs`` is given for data on disk.

    Examples
    --------
    >>> import scvenn
    >>> mdata = scvenn.datasets.simulate_counts(n_obs=200, n_features=20)
    >>> sizes = scvenn.choose_latent_sizes(mdata, n_shared=(2, 4), n_splits=2, max_epochs=1)
    >>> model = scvenn.MMVAEpp(mdata, **sizes.choice)

    Notes
    -----
    The cells held out also decide when training stops, so that the scores compare sizes and
    are no estimate of how good predictions will be: for that, test on other cells with
    :meth:`SharedPrivateModel.evaluate`. A random number decides which cells are held out, and each
    training has its own; set ``scvi.settings.seed`` for a choice that can be repeated. Source of
    the rule: Breiman et al., Classification and Regression Trees (1984), here for paired
    differences.
    """
    check_mudata(mdata, may_be_view=False)
    _check_model(model, model_kwargs or {}, train_kwargs)
    _check_sizes(n_shared=n_shared, n_private=n_private)
    manager = cast(AlignedManager, model._get_most_recent_anndata_manager(mdata))
    _check_jobs(n_jobs, manager)
    splits = _splits(mdata, manager.found, n_splits)
    trainings = list(product(range(n_splits), n_shared, n_private))
    further = ({**(model_kwargs or {})}, {"enable_progress_bar": False, **train_kwargs})
    scores: Iterator[tuple[int, float, float]]
    if n_jobs is None:
        scores = (
            _scores(mdata, model, splits[split], (shared, private), *further)
            for split, shared, private in trainings
        )
    else:
        parcel = Parcel.of(mdata, manager.found.modalities, manager.found.arguments)
        names = [[mdata.obs_names[rows] for rows in split] for split in splits]
        seeds = torch.randint(2**32, (len(trainings),)).tolist()
        tasks = [
            (parcel, model, names[split], sizes, *further, seed)
            for (split, *sizes), seed in zip(trainings, seeds, strict=True)
        ]
        scores = side_by_side(_scores, tasks, n_jobs)
    shown = progress(scores, description="Training", total=len(trainings))
    rows = [(*training, *scored) for training, scored in zip(trainings, shown, strict=True)]
    table = pd.DataFrame(
        rows, columns=["split", "n_shared", "n_private", "epoch", Keys.CROSS_VIEW, "elbo"]
    )
    best_shared = _smallest(table, "n_shared", Keys.CROSS_VIEW)
    of_best = table[table["n_shared"] == best_shared]
    best_private = _smallest(of_best, "n_private", "elbo")
    return LatentSizes({"n_shared": best_shared, "n_private": best_private}, table)


def _check_model(
    model: Any, model_kwargs: Mapping[str, Any], train_kwargs: Mapping[str, Any]
) -> None:
    """Refuse what is no class of models, and arguments that every training has of its own."""
    if not (isinstance(model, type) and issubclass(model, SharedPrivateModel)):
        found_type = type(model).__name__  # a model as text is a long summary
        raise ValueError(
            "model: expected a class of models, such as scvenn.MMVAEpp, found an object of class "
            f"{found_type}."
        )
    if not isinstance(model_kwargs, Mapping):
        raise ValueError(f"model_kwargs={model_kwargs!r}: expected arguments by name.")
    for argument, given, own in (
        ("model_kwargs", model_kwargs, _OF_MODEL),
        ("train_kwargs", train_kwargs, _OF_TRAINING),
    ):
        if taken := [name for name in own if name in given]:
            raise ValueError(
                f"{argument}: {taken} cannot be chosen here. The sizes are n_shared=[...] and "
                "n_private=[...], and every training holds out the cells of its split."
            )


def _check_sizes(**candidates: Any) -> None:
    for name, sizes in candidates.items():
        several = isinstance(sizes, Collection) and not isinstance(sizes, str | Mapping)
        for size in sizes if several else ():
            check_positive(**{name: size})
        if not several or not len(sizes) or len(set(sizes)) < len(sizes):
            raise ValueError(f"{name}={sizes!r}: expected a list of one or more sizes, each once.")


def _check_jobs(n_jobs: Any, manager: AlignedManager) -> None:
    if n_jobs is None:
        return
    if not isinstance(n_jobs, int | np.integer) or n_jobs == 0 or n_jobs < -1:
        raise ValueError(
            f"n_jobs={n_jobs!r}: expected a number of processes, or -1 for as many as cores."
        )
    if manager.on_disk:
        raise ValueError(
            f"n_jobs={n_jobs}: the data is on disk, and other processes cannot share the open "
            "file. Pass n_jobs=None, or read the data into memory."
        )


def _splits(mdata: MuData, found: Registry, n_splits: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions of the cells to train on and to hold out, of every split."""
    check_positive(n_splits=n_splits)
    if not 2 <= n_splits <= mdata.n_obs:
        raise ValueError(
            f"n_splits={n_splits!r}: expected a number between 2 and the {mdata.n_obs} cells."
        )
    parts = KFold(n_splits, shuffle=True, random_state=scvi.settings.seed)
    splits = list(parts.split(np.arange(mdata.n_obs)))
    for split, (_, held_out) in enumerate(splits):
        measured = [observed_cells(mdata, m)[held_out] for m in found.modalities]
        if not (np.sum(measured, axis=0) > 1).any():
            raise ValueError(
                f"No cell held out in split {split} of {n_splits} has two modalities, so that "
                "nothing says how well one predicts another. Take fewer splits."
            )
    return splits


def _scores(
    data: MuData | Parcel,
    model: type[SharedPrivateModel],
    split: Sequence[Any],
    sizes: Sequence[int],
    model_kwargs: dict[str, Any],
    train_kwargs: dict[str, Any],
) -> tuple[int, float, float]:
    """The best epoch of a training, and its log-likelihood across views and objective there."""
    mdata = data.unpacked(model) if isinstance(data, Parcel) else data
    shared, private = sizes
    candidate = model(mdata, n_shared=shared, n_private=private, **model_kwargs)
    candidate.train(
        **train_kwargs, write_obsm=False, datasplitter_kwargs={"external_indexing": split}
    )
    epoch, scores = candidate.best_epoch_, []
    for name in (f"{record}_validation" for record in (Keys.CROSS_VIEW, "elbo")):
        if name not in candidate.history:
            raise ValueError(
                "choose_latent_sizes() compares sizes in the cells held out, and training never "
                "validated. Leave out check_val_every_n_epoch, or choose more epochs."
            )
        record = candidate.history[name].iloc[:, 0]  # by epoch, of those that were validated
        scores.append(float(record.iloc[-1] if epoch < 0 else record.loc[epoch]))
    cross_view, loss = scores
    return epoch, cross_view, -loss


def _smallest(table: pd.DataFrame, size: str, score: str) -> int:
    """The smallest size that is within one standard error of the best."""
    scores = table.pivot_table(score, index="split", columns=size)  # (splits, sizes)
    best = scores[scores.mean().idxmax()]
    shortfall = scores.rsub(best, axis=0)
    fits = shortfall.mean() <= shortfall.sem()
    return int(fits.index[fits].min())
