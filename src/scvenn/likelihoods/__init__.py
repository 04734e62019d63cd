"""How a modality's values are distributed given its decoder's output.

A likelihood depends on the scale of the data (it standardises, it multiplies by the library size),
not on the objective. It declares whatever else in the package depends on it, so that a new one is a
class and an entry of ``LIKELIHOODS``, the one table of them.

In reading order: ``base`` (what every likelihood declares and offers), ``real`` (normal), ``unit``
(bernoulli, beta), ``counts`` (poisson and the negative binomials); and what makes wide modalities
fast: ``rows`` (dense and sparse values alike), ``outputs`` (what decoders give), ``last_layer``
(a layer and its likelihood in one pass), ``baselines`` (many features by few evaluations),
``densities`` (gradients by hand).

Shapes: ``B`` cells, ``D`` features. A decoder gives ``n_outputs`` raw parameters for each feature,
those of one kind side by side, and may have leading dimensions: (..., B, n_outputs * D).
"""

from scvenn.likelihoods.base import (
    DIFFERENCE,
    DIFFERENCE_OF_FRACTIONS,
    LOG_FOLD_CHANGE,
    Batch,
    Effect,
    FeatureStats,
    Likelihood,
    share_of,
)
from scvenn.likelihoods.baselines import ReadMean
from scvenn.likelihoods.counts import (
    NegativeBinomial,
    NegativeBinomialMixture,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from scvenn.likelihoods.outputs import LastLayer, Parts
from scvenn.likelihoods.real import Normal
from scvenn.likelihoods.rows import Rows, SparseRows, dense, some_features
from scvenn.likelihoods.unit import Bernoulli, Beta

__all__ = [
    "DIFFERENCE",
    "DIFFERENCE_OF_FRACTIONS",
    "LIKELIHOODS",
    "LOG_FOLD_CHANGE",
    "Batch",
    "Bernoulli",
    "Beta",
    "Effect",
    "FeatureStats",
    "LastLayer",
    "Likelihood",
    "NegativeBinomial",
    "NegativeBinomialMixture",
    "Normal",
    "Parts",
    "Poisson",
    "ReadMean",
    "Rows",
    "SparseRows",
    "ZeroInflatedNegativeBinomial",
    "dense",
    "find_likelihood",
    "inferred_likelihoods",
    "share_of",
    "some_features",
]

LIKELIHOODS: dict[str, type[Likelihood]] = {
    cls.name: cls
    for cls in (
        Normal,
        Bernoulli,
        Beta,
        Poisson,
        NegativeBinomial,
        ZeroInflatedNegativeBinomial,
        NegativeBinomialMixture,
    )
}


def find_likelihood(name: str) -> type[Likelihood]:
    """The likelihood of a name.

    Raises
    ------
    ValueError
        If ``LIKELIHOODS`` has none of that name.
    """
    if name not in LIKELIHOODS:
        raise ValueError(
            f"likelihood {name!r} not found; scvenn.likelihoods.LIKELIHOODS has "
            f"{list(LIKELIHOODS)}. One of your own must be added to it before it is used, and "
            "before a model that was trained with it is loaded."
        )
    return LIKELIHOODS[name]


def inferred_likelihoods() -> list[str]:
    """Names that ``likelihoods="auto"`` tries, in this order: narrow domains first."""
    ranks = {name: cls.inferred_rank for name, cls in LIKELIHOODS.items()}
    ranked = {name: rank for name, rank in ranks.items() if rank is not None}
    return sorted(ranked, key=ranked.__getitem__)
