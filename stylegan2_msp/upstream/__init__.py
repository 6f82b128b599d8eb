"""Everything that touches an existing checkout, or a network file, of the StyleGAN2-ADA family."""
