"""From a MuData to tensors."""
