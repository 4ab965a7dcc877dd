"""Drawing what was seen into a picture: boxes, landmarks, expression, bars of AUs; or nobody."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from faceaffect.data.faces.finder import Frame
from faceaffect.prediction.seen import Answered
from faceaffect.schema import LabelSchema

Box = tuple[int, int, int, int]  # left, top, right, bottom

# Okabe and Ito's palette, which colour-blind people can tell apart.
_COLOURS = ((86, 180, 233), (230, 159, 0), (0, 200, 140), (240, 228, 66), (213, 94, 0),
            (204, 121, 167), (0, 114, 178))  # fmt: skip
_DARK, _PALE, _FAINT = (16, 18, 22), (245, 245, 245), (96, 100, 108)
_SHADE = 0.85  # how much of a panel hides what lies behind
_ROWS = (99, 8, 4)  # of a panel, so many that it finds a place beside the faces
_BLOCKS = 5  # of a face that is hidden: too few to know anybody by


def draw(image: Frame, faces: Sequence[Answered], schema: LabelSchema) -> Frame:
    """Return a picture with the answers drawn in, at a size that fits the picture.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        faces: what was seen in it.
        schema: what the model answers.
    """
    out = image.copy()
    text = max(11, round(min(image.shape[:2]) / 34))
    taken: list[Box] = [_corners(face) for face in faces]
    for number, found in enumerate(faces):
        colour = _COLOURS[((found.track or number + 1) - 1) % len(_COLOURS)]
        left, top, right, bottom = taken[number]
        line = max(1, text // 7)
        cv2.rectangle(out, (left, top), (right, bottom), colour, line)
        _draw_points(out, found, colour, text)
        head = _headline(found, schema, text, colour)
        place = _beside(head.shape, (left, top - head.shape[0] - line), out.shape)
        _paste(out, head, place, 1.0)
        taken.append((place[0], place[1], place[0] + head.shape[1], place[1] + head.shape[0]))
    for number, found in enumerate(faces):
        for rows in _ROWS:
            panel = _panel(found, schema, text, min(rows, int(image.shape[0] / text / 1.25) - 4))
            if panel is None:
                break
            spot = _free_spot(panel.shape, taken[number], taken, out.shape)
            if spot is None and rows == _ROWS[-1] and len(faces) == 1:
                spot = _corner(panel.shape, out.shape)  # over the face rather than not at all
            if spot is not None:
                _paste(out, panel, (spot[0], spot[1]), _SHADE)
                taken.append(spot)
                break
    return out


def hide(image: Frame, boxes: Sequence[Sequence[float]]) -> Frame:
    """Return a picture in which the faces in some boxes (x, y, width, height) are not to be known.

    What is left of a face are five by five colours, smoothed; a box is taken wider than it is.
    """
    out = image.copy()
    height, width = image.shape[:2]
    for x, y, w, h in boxes:
        left, top = max(int(x - 0.25 * w), 0), max(int(y - 0.3 * h), 0)
        right, bottom = min(int(x + 1.25 * w) + 1, width), min(int(y + 1.25 * h) + 1, height)
        if right <= left or bottom <= top:
            continue
        part = out[top:bottom, left:right]
        coarse = cv2.resize(part, (_BLOCKS, _BLOCKS), interpolation=cv2.INTER_AREA)
        size = (right - left, bottom - top)
        out[top:bottom, left:right] = cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)
    return out


def _corners(found: Answered) -> Box:
    x, y, width, height = found.face.box
    return round(x), round(y), round(x + width), round(y + height)


def _draw_points(out: Frame, found: Answered, colour: tuple[int, int, int], text: int) -> None:
    if found.face.points is None:
        return
    radius = max(1, text // 6) if len(found.face.points) == 5 else max(1, text // 12)
    for x, y in found.face.points.tolist():
        centre = (round(x), round(y))
        cv2.circle(out, centre, radius + 1, _DARK, -1, cv2.LINE_AA)
        cv2.circle(out, centre, radius, colour, -1, cv2.LINE_AA)


def top_expression(answers: Mapping[str, float], schema: LabelSchema) -> str | None:
    """Return the most probable expression, None where the model names none."""
    return max(schema.expressions, key=answers.__getitem__) if schema.expressions else None


def _headline(
    found: Answered, schema: LabelSchema, text: int, colour: tuple[int, int, int]
) -> NDArray[np.uint8]:
    words = [f"{found.track}"] if found.track is not None else []
    top = top_expression(found.answers, schema)
    if top is not None:
        words.append(f"{top} {100 * found.answers[top]:.0f} %")
    elif schema.aus:
        words.append(f"{sum(found.answers[n] >= 0.5 for n in schema.au_names)} AUs")
    font = _font(text)
    line = "  ".join(words) or "face"
    width = round(font.getlength(line)) + text
    picture = Image.new("RGB", (width, round(1.5 * text)), colour)
    pen = ImageDraw.Draw(picture)
    pen.text((text / 2, 0.72 * text), line, _DARK, font, anchor="lm")
    return np.asarray(picture)


def _panel(found: Answered, schema: LabelSchema, text: int, rows: int) -> NDArray[np.uint8] | None:
    """Return bars of the AUs, the surest of them where not all fit, and valence and arousal."""
    row, rows = round(1.25 * text), max(rows, 1)
    names = list(schema.au_names)
    if len(names) > rows:
        surest = sorted(names, key=lambda name: -found.answers[name])[:rows]
        names = [name for name in names if name in surest]
    va = ["valence", "arousal"] if schema.valence_arousal else []
    if not names and not va:
        return None
    size = (round(9.5 * text), row * (len(names) + len(va)) + text // 2)
    picture = Image.new("RGB", size, _DARK)
    pen = ImageDraw.Draw(picture)
    for index, name in enumerate([*names, *va]):
        middle = text // 4 + (index + 0.5) * row
        label = name if name in names else name[:3] + "."
        pen.text((text / 2, middle), label, _PALE, _font(text), anchor="lm")
        _bar(pen, found.answers[name], name in va, (3.8 * text, middle), (5.2 * text, 0.5 * text))
    return np.asarray(picture)


def _bar(
    pen: ImageDraw.ImageDraw,
    value: float,
    signed: bool,
    place: tuple[float, float],
    size: tuple[float, float],
) -> None:
    """Draw a value from 0 to 1, or a signed one from -1 to 1 around the middle."""
    (left, middle), (width, height) = place, size
    above, below = middle - height / 2, middle + height / 2
    pen.rectangle((left, above, left + width, below), _FAINT)
    zero = left + width / 2 if signed else left
    end = zero + value * (width / 2 if signed else width)
    strong = value >= 0.5 or signed
    colour = _COLOURS[1] if strong else _COLOURS[0]
    pen.rectangle((min(zero, end), above, max(zero, end), below), colour)


def _free_spot(
    shape: tuple[int, ...], box: Box, taken: Sequence[Box], frame: tuple[int, ...]
) -> Box | None:
    """Return where a panel covers no face and no other panel, None where nowhere."""
    height, width = shape[:2]
    left, top, right, bottom = box
    gap = 4
    for x, y in (
        (right + gap, top), (left - width - gap, top), (right + gap, bottom - height),
        (left - width - gap, bottom - height), (left, bottom + gap), (left, top - height - gap),
    ):  # fmt: skip
        y = min(max(y, 0), max(frame[0] - height, 0))
        spot = (x, y, x + width, y + height)
        inside = x >= 0 and spot[2] <= frame[1] and spot[3] <= frame[0]
        if inside and not any(_overlap(spot, other) for other in taken):
            return spot
    return None


def _corner(shape: tuple[int, ...], frame: tuple[int, ...]) -> Box:
    """Return the place at the lower left of the picture."""
    y = max(frame[0] - shape[0], 0)
    return 0, y, shape[1], y + shape[0]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _beside(
    shape: tuple[int, ...], place: tuple[int, int], frame: tuple[int, ...]
) -> tuple[int, int]:
    """Return the place moved into the picture."""
    x = min(max(place[0], 0), max(frame[1] - shape[1], 0))
    return x, min(max(place[1], 0), max(frame[0] - shape[0], 0))


def _paste(out: Frame, patch: NDArray[np.uint8], place: tuple[int, int], share: float) -> None:
    x, y = place
    part = out[y : y + patch.shape[0], x : x + patch.shape[1]]
    fitting = patch[: part.shape[0], : part.shape[1]]
    part[:] = (share * fitting + (1 - share) * part).astype(np.uint8)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that matplotlib ships."""
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    return ImageFont.truetype(str(file), size)
