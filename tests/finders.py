"""Finders of faces for tests: what a function says, so that no network is needed."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from faceaffect.data.faces.finder import Face


class Told:
    """Finds, in each picture, the one face whose points a function tells, or none."""

    def __init__(self, points: Callable[[np.ndarray], np.ndarray | None]) -> None:
        self.points = points

    def find(self, images: Sequence[np.ndarray]) -> list[list[Face]]:
        return [self._find(image) for image in images]

    def _find(self, image: np.ndarray) -> list[Face]:
        points = self.points(image)
        if points is None:
            return []
        low, high = points.min(0), points.max(0)
        return [Face((*low.tolist(), *(high - low).tolist()), 0.9, points.astype(np.float32))]


class Bright:
    """Finds bright squares, so that a test can draw its faces; stands in the table as `bright`."""

    def find(self, images: Sequence[np.ndarray]) -> list[list[Face]]:
        return [self._find(image) for image in images]

    def _find(self, image: np.ndarray) -> list[Face]:
        mask = (image.min(2) > 200).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        found = []
        for x, y, width, height, area in stats[1:].tolist():
            if area > 20:
                places = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)])
                points = places * (width, height) + (x, y)
                found.append(Face((x, y, width, height), 1.0, points.astype(np.float32)))
        return sorted(found, key=lambda face: -face.box[2] * face.box[3])
