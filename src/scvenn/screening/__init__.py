"""Which features are shared, and what follows from it: arrays in, numbers out.

In reading order: ``values`` (what a regression reads of a modality, whatever its storage),
``regression`` (leave-one-out R² of two regressions on other modalities; ``compiled`` has its sums
over pairs of sparse values, ``threads`` works on parts of a modality side by side), ``features``
(which features these predict better than by chance), ``weak_effects`` (effects of ``shared`` on
features that screening did not select).

Shapes: ``n`` cells, ``D`` features of a modality, ``M`` modalities, ``K`` dimensions of ``shared``.
"""

from scvenn.screening.features import FDR, Screening, screen, shuffled_within, threshold
from scvenn.screening.values import (
    LEAST_VARIATION,
    DiscreteValues,
    ExtremeValueError,
    RealValues,
    Values,
    as_csr,
)
from scvenn.screening.weak_effects import LEAST_SPREAD, weak_effects, whitening

__all__ = [
    "FDR",
    "LEAST_SPREAD",
    "LEAST_VARIATION",
    "DiscreteValues",
    "ExtremeValueError",
    "RealValues",
    "Screening",
    "Values",
    "as_csr",
    "screen",
    "shuffled_within",
    "threshold",
    "weak_effects",
    "whitening",
]
