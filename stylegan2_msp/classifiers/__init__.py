"""Classifiers that label the training data: a small built-in one, or one that the user brings, always frozen."""

from stylegan2_msp.classifiers.frozen import FrozenClassifier
from stylegan2_msp.classifiers.spec import ClassifierSpec

__all__ = ["ClassifierSpec", "FrozenClassifier"]
