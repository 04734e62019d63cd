"""Which features are shared: arrays in, numbers out."""
