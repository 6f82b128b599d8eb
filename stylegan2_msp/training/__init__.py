"""Training: losses, one step, adaptive augmentation, averaged weights, checkpoints, processes and the loop."""
