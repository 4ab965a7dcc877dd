"""Faces in pictures: found, cut out as a model expects them, followed through a video."""
