"""Two people, two expressions, four pictures: what an editor of expressions learns from."""

from dataclasses import replace
from typing import Any

import numpy as np

from faceaffect.data.dataset import Loaded
from faceaffect.data.few_shot import NWayKShot
from faceaffect.data.synthetic import fine
from faceaffect.data.synthetic.dataset import FINE, SyntheticFaces, subject_name
from faceaffect.data.synthetic.fine import fine_labels
from faceaffect.data.synthetic.identity import make_identity
from faceaffect.data.synthetic.render import render
from faceaffect.data.synthetic.scene import draw_scene

OTHER = "other_expression"
"""The attribute that holds the second expression; the first is ``expression``."""


class ExpressionQuartets(SyntheticFaces):
    """Clips of four pictures: (a, e), (b, f), (a, f), (b, e).

    Person a, in a scene of theirs (pose, light, background), shows expressions e and f, and so does
    person b in another scene. Only base classes occur, those that ``n_way_k_shot`` with the same
    ``novel`` and ``class_seed`` (its ``seed``) trains on. Every sample has a second person of its
    own.

    Args:
        n: number of samples.
        subjects: number of first people.
        seed: world; another than that of the faces that are recognised.
        novel: how many classes never occur.
        class_seed: of drawing those.
        image_size: side of the pictures in pixels.
        cache: folder where drawn samples are kept, None for none.

    Attributes:
        second_people: (n,) names of the second people; ``samples.subject`` has the first.
    """

    def __init__(
        self,
        n: int = 1200,
        subjects: int = 300,
        seed: int = 2000,
        novel: int = 18,
        class_seed: int = 0,
        image_size: int = 64,
        cache: str | None = None,
    ) -> None:
        super().__init__(
            n, subjects, seed, aus=(), expressions=FINE, valence_arousal=False,
            image_size=image_size, occlusion=0.0, cache=cache,
        )  # fmt: skip
        base, _ = NWayKShot(novel=novel, seed=class_seed).classes(tuple(fine.CLASSES))
        drawn = fine_labels(2 * n, seed, among=base)
        self._labels = replace(drawn, grade=drawn.grade[:n], expression=drawn.expression[:n])
        self._other = drawn.grade[n:]
        self._subjects = subjects
        self.second_people = np.array([subject_name(seed, subjects + i) for i in range(n)])
        if self._cache is not None:
            self._cache = self._cache / f"quartets-{novel}-{class_seed}"
        self.samples = replace(
            self.samples,
            expression=self._labels.expression,
            attributes={OTHER: drawn.expression[n:]},
        )
        self.attribute_names = {OTHER: tuple(fine.CLASSES)}

    def render(self, index: int) -> Loaded:
        """Draw the four pictures of a sample."""
        first, second = self._labels.grade[index], self._other[index]
        people = (self.person(index), make_identity(self.seed, self._subjects + index))
        pictures = [
            render(people[who], self._scene(index, who, grade), self.image_size)
            for who, grade in ((0, first), (1, second), (0, second), (1, first))
        ]
        images, points = zip(*pictures, strict=True)
        return Loaded(np.stack(images), np.stack(points), self._scene(index, 0, first).pose)

    def _scene(self, index: int, who: int, grade: Any) -> Any:
        """Return one of the two scenes, which differs between expressions in nothing else."""
        rng = np.random.default_rng([self.seed, 158, index, who])
        return draw_scene(rng, grade, occlusion=0.0)
