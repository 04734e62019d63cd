"""Figures of trained models and of the tables they return: ``scvenn.pl``.

Each function draws on the axes it is given, or on those of a new figure, and returns them. As in
scanpy, ``show=True`` shows the figure, ``save="figure.pdf"`` writes it, and ``return_fig=True``
returns it. Colours are those of Okabe and Ito, which colour-blind readers can tell apart; those of
categories are kept in ``uns``, as scanpy keeps them. No global setting of matplotlib is changed.

In reading order: ``drawing`` (showing and saving, colours, panels, legends), ``models`` (figures of
a model), ``tables`` (figures of the tables that models return), ``palettes`` (colours of
categories), ``embeddings``.
"""

from scvenn.plotting.drawing import names_are_no_formulas as names_are_no_formulas
from scvenn.plotting.embeddings import draw_embeddings as draw_embeddings
from scvenn.plotting.embeddings import embeddings
from scvenn.plotting.embeddings import in_two_dimensions as in_two_dimensions
from scvenn.plotting.models import shared_scores, training
from scvenn.plotting.tables import (
    compare,
    leakage,
    loadings,
    r2,
    variance_by_axis,
    variance_explained,
)
from scvenn.plotting.tables import spoken as spoken
from scvenn.plotting.tables import spoken_metric as spoken_metric

__all__ = [
    "compare",
    "embeddings",
    "leakage",
    "loadings",
    "r2",
    "shared_scores",
    "training",
    "variance_by_axis",
    "variance_explained",
]


def __dir__() -> list[str]:
    """What users see: not what other rooms of the package use."""
    return [*__all__, "__all__"]  # Sphinx documents them only if it finds "__all__"
