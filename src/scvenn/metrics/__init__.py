"""How good predictions and embeddings are: arrays in, numbers out.

In reading order: ``features`` (predictions, feature by feature), ``embeddings``, ``models``
(several models in one table), ``arrays`` (what users pass becomes arrays).

Functions that fit something (:func:`probe_scores`, :func:`ridge_r2`, :func:`recovery_r2`) fit it on
the ``train`` rows and score it on the ``test`` rows, never on the same ones. Rows that hold NaN, as
an embedding has for cells without a modality, are left out.

Shapes: ``B`` cells, ``D`` features, ``K`` latent dimensions.
"""

from scvenn.metrics.embeddings import probe_scores, recovery_r2, ridge_r2, scib
from scvenn.metrics.embeddings import with_means as with_means
from scvenn.metrics.features import UNDEFINED as UNDEFINED
from scvenn.metrics.features import auroc, pearson, r2
from scvenn.metrics.models import EVALUATION_COLUMNS as EVALUATION_COLUMNS
from scvenn.metrics.models import compare, medians

__all__ = [
    "auroc",
    "compare",
    "medians",
    "pearson",
    "probe_scores",
    "r2",
    "recovery_r2",
    "ridge_r2",
    "scib",
]


def __dir__() -> list[str]:
    """What users see: not what other rooms of the package use."""
    return [*__all__, "__all__"]  # Sphinx documents them only if it finds "__all__"
