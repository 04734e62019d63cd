"""The name under which models saved by scvenn 0.1 hold the result of screening."""

from scvenn.screening import Screening

__all__ = ["Screening"]
