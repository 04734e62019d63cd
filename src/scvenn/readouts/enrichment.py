"""Which sets of features a dimension of a latent moves, by decoupler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

# Features of the model that a set needs to be scored.
_LEAST_FEATURES = 5


COLUMNS = ["dimension", "set", "score", "p_adjusted", "n_features"]


def enrichment(
    loadings: pd.DataFrame, sets: Mapping[str, Sequence[str]] | pd.DataFrame
) -> pd.DataFrame:
    """The table of :meth:`scvenn.SharedPrivateModel.enrichment`, from that of its loadings."""
    network = as_network(sets)
    wide = loadings.pivot_table("loading", "dimension", "feature", sort=False)
    _check_sizes(network, wide.columns)
    # a dimension that moves nothing has no features in any order
    moved = wide[wide.std(axis=1) > 0]
    if moved.empty:
        return pd.DataFrame(columns=COLUMNS)
    score, adjusted = decoupler().mt.ulm(data=moved, net=network, tmin=_LEAST_FEATURES)
    sizes = network[network["target"].isin(wide.columns)].groupby("source")["target"].nunique()
    table = score.rename_axis("dimension").reset_index().melt("dimension", var_name="set")
    found = pd.DataFrame(
        {
            "dimension": table["dimension"],
            "set": table["set"],
            "score": table["value"],
            "p_adjusted": adjusted.melt()["value"],
            "n_features": table["set"].map(sizes),
        },
        columns=COLUMNS,
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
        return sets
    if not isinstance(sets, Mapping) or any(isinstance(of, str) for of in sets.values()):
        raise ValueError(
            "enrichment(sets=...): expected lists of features by the name of the set, or a table "
            f"with the columns 'source' and 'target'; found {type(sets).__name__}."
        )
    pairs = [(name, feature) for name, of in sets.items() for feature in dict.fromkeys(of)]
    return pd.DataFrame(pairs, columns=["source", "target"])


def _check_sizes(network: pd.DataFrame, features: pd.Index) -> None:
    """Refuse sets of which none has enough of the features."""
    known = network[network["target"].isin(features)]
    sizes = known.groupby("source")["target"].nunique()
    if not (sizes >= _LEAST_FEATURES).any():
        raise ValueError(
            f"enrichment(): none of the {network['source'].nunique():,} sets has "
            f"{_LEAST_FEATURES} of the {len(features):,} features. Their members are named like "
            f"{list(network['target'].head(3))}, features like {list(features[:3])}."
        )
