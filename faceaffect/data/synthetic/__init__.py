"""Rendered faces whose labels, landmarks, pose and attributes are known exactly."""

from faceaffect.data.synthetic.dataset import SyntheticFaces

__all__ = ["SyntheticFaces"]
