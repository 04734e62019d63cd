"""Embeddings of cells, and where they are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from mudata import MuData

from scvenn import network
from scvenn._arguments import check_flags
from scvenn.data import Cells, Keys
from scvenn.screening import Screening

# Shared latent (n, K), and the private latent of each modality that was read, (n, K).
Embedding = tuple[np.ndarray, dict[str, np.ndarray]]


def embed(
    net: network.SharedPrivateVAE,
    cells: Cells,
    sources: Sequence[str],
    *,
    batch_corrected: bool = False,
    bar: str = "Embeddings",
) -> Embedding:
    """Posterior means of cells, given some modalities, in one pass.

    Parameters
    ----------
    net
        The networks.
    cells
        Which cells of which data.
    sources
        Modalities to read.
    batch_corrected
        Whether for users to look at and to cluster, rather than to decode: without what batches
        shift, if the model was set up with a batch.
    bar
        Text of the progress bar.

    Returns
    -------
    The shared latent, (n, K), NaN where none of the sources was measured; and the private latent of
    each source, (n, K), NaN where it was not.
    """
    check_flags(batch_corrected=batch_corrected)
    shared = np.empty((len(cells), net.n_shared), np.float32)
    private = {m: np.empty((len(cells), net.n_private[m]), np.float32) for m in sources}
    for part, tensors in cells.minibatches(sources, bar):
        z_shared, z_private = network.embed(net, tensors, sources, batch_corrected=batch_corrected)
        shared[part] = z_shared.cpu().numpy()
        for m, z in z_private.items():
            private[m][part] = z.cpu().numpy()
    return shared, private


def write_embeddings(
    mdata: MuData,
    embedding: Embedding,
    *,
    key_prefix: str,
    screening: dict[str, Screening] | None,
    features: dict[str, np.ndarray],
    written_by: dict[str, Any],
) -> None:
    """Write embeddings of all cells, and which features are shared, where scanpy finds them.

    Parameters
    ----------
    mdata
        Where to write.
    embedding
        Of all cells.
    key_prefix
        What the keys begin with.
    screening, features
        What screening found of each modality, None if there was none, and the names of the model's
        features.
    written_by
        Which model wrote this, with which versions.
    """
    shared, private = embedding
    mdata.obsm[Keys.shared(key_prefix)] = shared
    for m, z in private.items():
        if m not in mdata.mod:
            continue
        mdata.obsm[Keys.private(m, key_prefix)] = z
        if mdata.mod[m].is_view:  # which could not hold what is written
            mdata.mod[m] = mdata.mod[m].copy()
        adata = mdata.mod[m]
        rows = mdata.obs_names.get_indexer(adata.obs_names)
        adata.obsm[Keys.shared(key_prefix)] = shared[rows]
        adata.obsm[Keys.private(prefix=key_prefix)] = z[rows]
        if screening is not None:
            score = pd.Series(screening[m].score, index=features[m])
            adata.var[Keys.SHARED_SCORE] = score.reindex(adata.var_names.astype(str)).to_numpy()
    mdata.uns[Keys.UNS] = written_by
