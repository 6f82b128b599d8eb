"""How well generated data match what was asked of the generator."""
