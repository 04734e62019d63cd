"""Minified data: in place of a modality's values, what the encoder of a model made of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from scvenn._mudata import pull_on_update
from scvenn.data.keys import Keys
from scvenn.data.matrices import sound

_KEPT = ("obsm", "varm", "obsp", "varp", "uns")


def is_minified(mdata: MuData, modality: str) -> bool:
    """Whether a modality has posteriors in place of its values, which may have been put back."""
    if modality not in mdata.mod:
        return False
    adata = mdata.mod[modality]
    return Keys.POSTERIOR in adata.obsm and adata.X is None


def minified(mdata: MuData, posteriors: Mapping[str, np.ndarray], name: str) -> MuData:
    """A copy that has posteriors in place of all matrices of values.

    Parameters
    ----------
    mdata
        The data. ``X``, ``layers`` and ``raw`` are left out, and so are modalities that the model
        does not read and cells that have no other ones.
    posteriors
        Of each modality, for each of ``mdata.obs_names``, (n_obs, W).
    name
        By which the model knows them as its own.
    """
    mod = {}
    _check_indices(mdata, "mdata")
    for m, encoded in posteriors.items():
        adata = mdata.mod[m]
        _check_indices(adata, f"mdata[{m!r}]")
        kept = {part: dict(getattr(adata, part)) for part in _KEPT}
        rows = mdata.obs_names.get_indexer(adata.obs_names)
        kept["obsm"][Keys.POSTERIOR] = encoded[rows]
        kept["uns"][Keys.POSTERIOR_OF] = name
        mod[m] = AnnData(obs=adata.obs, var=adata.var, **kept)
    names = mdata.obs_names
    has_one = np.any([names.isin(adata.obs_names) for adata in mod.values()], axis=0)
    with pull_on_update(False):
        found = MuData(mod, obs=mdata.obs[has_one])
        # under the name of a modality, mudata keeps which cells it has
        found.obsm.update({k: z[has_one] for k, z in mdata.obsm.items() if k not in mdata.mod})
        found.obsp.update({k: graph[has_one][:, has_one] for k, graph in mdata.obsp.items()})
        found.uns.update(mdata.uns)
        return found.copy()  # which shares nothing with the data


def _check_indices(data: MuData | AnnData, where: str) -> None:
    """Refuse sparse matrices that are damaged beside the values: copying them would crash."""
    for part in ("obsm", "obsp", "varm", "varp"):
        for key, stored in getattr(data, part).items():
            if sp.issparse(stored):
                sound(stored, None, f"{where}.{part}[{key!r}]")


def posteriors_of(mdata: MuData, modality: str) -> np.ndarray:
    """Posteriors of a minified modality, one row for each of ``mdata.obs_names``.

    Ones where it was not measured.
    """
    adata = mdata.mod[modality]
    stored = np.asarray(adata.obsm[Keys.POSTERIOR], dtype=np.float32)
    rows = adata.obs_names.get_indexer(mdata.obs_names)
    return np.where(rows[:, None] < 0, np.float32(1), stored[rows])


def check_posteriors(mdata: MuData, modality: str, name: str | None) -> None:
    """Refuse posteriors of another model, or damaged ones.

    Raises
    ------
    ValueError
        If they are those.
    """
    adata = mdata.mod[modality]
    if name is None or adata.uns.get(Keys.POSTERIOR_OF) != name:
        raise ValueError(
            f"modality {modality!r} was minified: it has posteriors in place of values, and these "
            "are of another model, or of this one before it was trained further. Load the model "
            "that the data was saved with, or pass data with the values."
        )
    stored = np.asarray(adata.obsm[Keys.POSTERIOR])
    if stored.dtype.kind != "f" or not np.isfinite(stored).all():
        raise ValueError(
            f"modality {modality!r}: mdata[{modality!r}].obsm[{Keys.POSTERIOR!r}] should hold the "
            "finite numbers of minify_mudata(), but was changed since. Load the file again."
        )


def refuse_minified(mdata: MuData, modality: str, where: str) -> None:
    """Refuse to read values that are no longer there.

    Raises
    ------
    ValueError
        If the modality was minified.
    """
    if is_minified(mdata, modality):
        raise ValueError(
            f"{where} is needed here, and the data was minified: modality {modality!r} has no "
            "values, but posteriors in place of them. Pass data with the values, mdata=..., or "
            "load the model with such: load(dir_path, mdata)."
        )
