"""Operators with the signatures of the StyleGAN2 family."""
