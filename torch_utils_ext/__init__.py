"""Tensor operators and batch randomness; knows nothing of GANs or of uncertainty."""
