"""Before any model: ``scvenn.pp``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from mudata import MuData

from scvenn._arguments import check_flags
from scvenn.data import Cells, Keys, as_list, check_mudata, choose_modalities
from scvenn.models import MMVAEpp
from scvenn.readouts import groups_of, scores_within, screen_features, table_of_scores

__all__ = ["shared_features"]


def __dir__() -> list[str]:
    """What users see: not what this file imports."""
    return [*__all__, "__all__"]  # Sphinx documents them only if it finds "__all__"


def shared_features(
    mdata: MuData,
    *,
    given: str | None = None,
    modalities: Sequence[str] | None = None,
    layers: Mapping[str, str | None] | None = None,
    likelihoods: Mapping[str, str] | Literal["auto"] = "auto",
    batch_key: str | None = None,
    inplace: bool = True,
) -> pd.DataFrame | None:
    """Find the features of each modality that the other modalities predict, for any other tool.

    This is the screening with which :class:`~scvenn.MMVAEpp` begins; no model is trained, and all
    cells that have a modality and another one count, up to 10,000.

    Parameters
    ----------
    mdata
        Counts or transformed values of two or more modalities.
    given
        A categorical column of ``mdata.obs`` such as ``"cell_type"``: what is shared *within* types
        is found, their means do not count. None for what is shared in any way.
    modalities, layers, likelihoods, batch_key
        As in :meth:`~scvenn.SharedPrivateModel.setup_mudata`. What the batch explains does not
        count.
    inplace
        Whether to write ``mdata[<modality>].var["scvenn_shared"]``, boolean, and
        ``["scvenn_shared_score"]``, R², instead of returning a table.

    Returns
    -------
    None if ``inplace``; else the table of
    :meth:`~scvenn.SharedPrivateModel.get_shared_scores`.

    Raises
    ------
    TypeError
        If ``mdata`` is not a MuData.
    ValueError
        If the data or an argument cannot be used, as in a set-up; there is no column ``given``; or
        the MuData is a view and would be written to.

    Examples
    --------
    >>> import scvenn
    >>> mdata = scvenn.datasets.simulate_counts(n_obs=300, n_features=40)
    >>> scvenn.pp.shared_features(mdata)
    >>> shared = mdata["rna"][:, mdata["rna"].var["scvenn_shared"]]
    """
    check_flags(inplace=inplace)
    check_mudata(mdata, may_be_view=not inplace)
    chosen = None if modalities is None else as_list(modalities, "modalities")
    names = choose_modalities(mdata, chosen)
    # a MuData of its own, so that a set-up of the caller's stays as it is
    read = MuData({m: mdata[m] for m in names})
    read.obs = mdata.obs.loc[read.obs_names]
    MMVAEpp.setup_mudata(
        read, modalities=names, layers=layers, likelihoods=likelihoods, batch_key=batch_key
    )
    # its networks are not used: they are as small as can be
    model = MMVAEpp(read, n_shared=1, n_private=1, n_hidden=1)
    net, cells = model.module, Cells(model.adata_manager.snapshot(), np.arange(read.n_obs))
    if given is None:
        table = table_of_scores(cells.found, screen_features(net, cells))
    else:
        table = scores_within(net, cells, groups_of(cells, given, "cell"))
    if not inplace:
        return table
    if given is not None:
        table = table[table["group"] == "all"]
    for m, of_modality in table.groupby("modality", sort=False):
        var, found = mdata[str(m)].var, of_modality.set_index("feature")
        names_of_var = var.index.astype(str)
        var[Keys.SHARED] = found["shared"].reindex(names_of_var).to_numpy(bool)
        var[Keys.SHARED_SCORE] = found["score"].reindex(names_of_var).to_numpy()
    return None
