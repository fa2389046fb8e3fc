"""Teach and research 3D brain tumour segmentation: the rooms behind the five notebooks."""

__version__ = "0.1.0"
