"""Figures and pages made from trained networks."""
