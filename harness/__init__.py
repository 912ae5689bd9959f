"""Reproducibility benchmark harness for training-efficient diffusion transformers."""

__version__ = "0.1.0"
