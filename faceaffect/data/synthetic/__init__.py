"""Rendered faces whose action units, expression, valence, arousal, landmarks, pose and attributes are known exactly."""

from faceaffect.data.synthetic.dataset import SyntheticFaces

__all__ = ["SyntheticFaces"]
