"""From a MuData to tensors."""

from scvenn.data.keys import Keys

__all__ = ["Keys"]
