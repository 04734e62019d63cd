"""Which sets of features a dimension of a latent moves, by decoupler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_list_like

from scvenn._warnings import warn
from scvenn.data import quoted

# Features of the model that a set needs to be scored.
_LEAST_FEATURES = 5


def enrichment(
    loadings: pd.DataFrame, sets: Mapping[str, Sequence[str]] | pd.DataFrame
) -> pd.DataFrame:
    """The table of :meth:`scvenn.SharedPrivateModel.enrichment`, from that of its loadings."""
    network = as_network(sets)
    wide = loadings.pivot_table("loading", "dimension", "feature", sort=False)
    sizes = _sizes(network, wide.columns)
    # a dimension that moves nothing has no features in any order
    moved = wide[wide.std(axis=1) > 0]
    if moved.empty or sizes.empty:
        types = {"dimension": str, "set": str, "score": float, "p_adjusted": float}
        none = {
            name: pd.Series(dtype=dtype) for name, dtype in (types | {"n_features": int}).items()
        }
        return pd.DataFrame(none)
    chosen = network[network["source"].isin(sizes.index)]
    # with the features that no dimension moves, of which a model that screens has many
    score, adjusted = decoupler().mt.ulm(data=moved, net=chosen, tmin=_LEAST_FEATURES, empty=False)
    names = np.tile(score.columns, len(score))
    found = pd.DataFrame(
        {
            "dimension": np.repeat(score.index, len(score.columns)),
            "set": names,
            "score": score.to_numpy().ravel(),
            "p_adjusted": adjusted.to_numpy().ravel(),
            "n_features": sizes[names].to_numpy(),
        }
    )
    position = found["dimension"].map({name: k for k, name in enumerate(wide.index)})
    order = found.assign(position=position, strength=-found["score"].abs())
    rows = order.sort_values(["position", "strength"], kind="stable").index
    return found.loc[rows].reset_index(drop=True)


def decoupler() -> Any:
    """The package; what to install where there is none."""
    try:
        import decoupler
    except ImportError as error:
        raise ImportError(
            "enrichment() needs decoupler: pip install 'scvenn[enrichment]'."
        ) from error
    return decoupler


def as_network(sets: Mapping[str, Sequence[str]] | pd.DataFrame) -> pd.DataFrame:
    """Sets of features as decoupler has them: a row for each member."""
    if isinstance(sets, pd.DataFrame):
        if missing := [name for name in ("source", "target") if name not in sets]:
            raise ValueError(
                "enrichment(sets=...): expected a table with the columns 'source' (names of sets) "
                f"and 'target' (features), as decoupler has it; found {list(sets)}, without "
                f"{missing}."
            )
        return _pairs_in_text(sets)
    expected = "expected lists of features by the name of the set"
    if not isinstance(sets, Mapping):
        raise ValueError(
            f"enrichment(sets=...): {expected}, or a table with the columns 'source' and 'target'; "
            f"found {type(sets).__name__}."
        )
    for name, of in sets.items():
        if not is_list_like(of):
            raise ValueError(
                f"enrichment(sets=...): {expected}; found {type(of).__name__} for {name!r}."
            )
    pairs = [(name, feature) for name, of in sets.items() for feature in of]
    return _pairs_in_text(pd.DataFrame(pairs, columns=["source", "target"]))


def _pairs_in_text(network: pd.DataFrame) -> pd.DataFrame:
    """Names of sets and features as text, as numbers of clusters are not, and each pair once."""
    found = network[["source", "target"]].astype(str)
    if "weight" in network:
        found["weight"] = pd.to_numeric(network["weight"], errors="coerce")
    found = found.drop_duplicates()
    repeated = found.duplicated(["source", "target"])
    if repeated.any():
        one = found[repeated].iloc[0]
        raise ValueError(
            f"enrichment(sets=...): the set {one['source']!r} has {one['target']!r} more than "
            "once, with different weights. Keep one of the rows."
        )
    if "weight" in found:
        largest = found["weight"].abs().groupby(found["source"]).max()
        wrong = largest.index[~largest.between(0, np.inf, inclusive="neither")]
        if found["weight"].isna().any() or len(wrong):
            named = wrong if len(wrong) else found["source"][found["weight"].isna()].unique()
            raise ValueError(
                f"enrichment(sets=...): expected finite weights, not all 0, in each set; found "
                f"others in {quoted(named)}."
            )
    return found


def _sizes(network: pd.DataFrame, features: pd.Index) -> pd.Series:
    """How many of the features are in each set that can be scored; refuse sets if none can."""
    known = network[network["target"].isin(features)]
    sizes = known.groupby("source")["target"].nunique()
    sizes = sizes[sizes >= _LEAST_FEATURES]
    if sizes.empty:
        raise ValueError(
            f"enrichment(): none of the {network['source'].nunique():,} sets has "
            f"{_LEAST_FEATURES} of the {len(features):,} features. Their members are named like "
            f"{list(network['target'].head(3))}, features like {list(features[:3])}."
        )
    alike = pd.Series(True, sizes.index)
    if "weight" in known:
        alike = known.groupby("source")["weight"].nunique()[sizes.index] == 1
    if len(whole := sizes.index[alike & (sizes == len(features))]):
        warn(
            f"enrichment(): sets that have all {len(features):,} features, with one weight, are "
            f"left out, as there are no others to compare with: {quoted(whole)}."
        )
    return sizes.drop(whole)
