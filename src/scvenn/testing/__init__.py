"""Contracts of the parts that users write themselves: one call checks all that scvenn relies on.

In reading order: ``promises`` (how a broken one is reported), ``cases`` and ``shortcuts`` (parts of
the contract of likelihoods), ``likelihoods``, ``objectives``.
"""

from scvenn.testing.likelihoods import check_likelihood
from scvenn.testing.objectives import check_objective

__all__ = ["check_likelihood", "check_objective"]


def __dir__() -> list[str]:
    """What users see: not what this file imports."""
    return [*__all__, "__all__"]  # Sphinx documents them only if it finds "__all__"
