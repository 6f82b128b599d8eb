"""StyleGAN2-ADA conditioned on class and classifier confidence (maximum softmax probability, MSP)."""

__version__ = "0.1.0"
