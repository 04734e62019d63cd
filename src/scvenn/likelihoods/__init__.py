"""How a modality's values are distributed given its decoder's output.

A likelihood knows the scale of the data (it standardises, it multiplies by the library size) and
nothing of objectives. ``LIKELIHOODS`` is the one table of them.

In reading order: ``base`` (what every likelihood offers), ``real`` (normal), ``unit`` (bernoulli,
beta), ``counts`` (poisson and the negative binomials), ``densities`` (the two with gradients by
hand).

Shapes: ``B`` cells, ``D`` features. A decoder gives ``n_outputs`` raw parameters for each feature,
those of one kind side by side, and may have leading dimensions: (..., B, n_outputs * D).
"""

from scvenn.likelihoods.base import Batch, FeatureStats, Likelihood, Parts
from scvenn.likelihoods.counts import (
    NegativeBinomial,
    NegativeBinomialMixture,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from scvenn.likelihoods.real import Normal
from scvenn.likelihoods.unit import Bernoulli, Beta

__all__ = [
    "LIKELIHOODS",
    "Batch",
    "Bernoulli",
    "Beta",
    "FeatureStats",
    "Likelihood",
    "NegativeBinomial",
    "NegativeBinomialMixture",
    "Normal",
    "Parts",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
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
