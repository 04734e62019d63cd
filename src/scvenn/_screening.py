"""The name under which models saved by scvenn 0.1 hold what screening found."""

from scvenn.screening.features import Screening

__all__ = ["Screening"]
