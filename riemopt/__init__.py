"""Riemannian optimizers for PyTorch: the stored weight itself stays on the constraint surface."""

__version__ = "0.1.0"
