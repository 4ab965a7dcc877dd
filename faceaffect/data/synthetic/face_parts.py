"""Eyes, brows, nose and mouth."""

from typing import Final

import numpy as np

from faceaffect.data.synthetic.canvas import Canvas, Face, ellipse
from faceaffect.data.synthetic.facs import COLUMN
from faceaffect.data.synthetic.geometry import INDEX, Array, at, spline
from faceaffect.data.synthetic.identity import Identity
from faceaffect.data.synthetic.marks import visible

_LID_UP = [at("eye_in", "eye_u1", "eye_u2", "eye_out", side=s) for s in (0, 1)]
_LID_LOW = [at("eye_in", "eye_d1", "eye_d2", "eye_out", side=s) for s in (0, 1)]
_BROW = [at("brow0", "brow1", "brow2", "brow3", "brow4", side=s) for s in (0, 1)]
_UPPER = [
    *at("corner", "lip_up2", "lip_up1", side=1),
    INDEX["lip_up0"],
    *at("lip_up1", "lip_up2", "corner", side=0),
]
_LOWER = [
    *at("corner", "lip_low2", "lip_low1", side=1),
    INDEX["lip_low0"],
    *at("lip_low1", "lip_low2", "corner", side=0),
]
_IN_UP = [*at("in_corner", "in_up1", side=1), INDEX["in_up0"], *at("in_up1", "in_corner", side=0)]
_IN_LOW = [
    *at("in_corner", "in_low1", side=1),
    INDEX["in_low0"],
    *at("in_low1", "in_corner", side=0),
]
_TAPER: Final = np.array([0.75, 1.0, 1.0, 0.95, 0.85, 0.72, 0.55, 0.38, 0.15], np.float32)[:, None]
_BALL_X, _IRIS_RADIUS = 0.422, 0.082
_LASH, _SCLERA = np.array((28.0, 20.0, 20.0)), np.array((238.0, 234.0, 230.0))
_DARKNESS, _TONGUE = np.array((62.0, 22.0, 26.0)), np.array((178.0, 84.0, 88.0))
_TEETH = np.array((236.0, 230.0, 220.0))


def paint_brows(face: Face) -> None:
    """Two tapering strokes; the line of the bones below them comes from the relief."""
    colour = face.person.brow * face.light
    for side in (0, 1):
        middle = spline(5, 9) @ face.flat[_BROW[side]]
        inner = middle[2:] - middle[:-2]
        tangent = np.concatenate([middle[1:2] - middle[:1], inner, middle[-1:] - middle[-2:-1]])
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-6
        half = normal * _TAPER * face.person.brow_width * face.canvas.unit
        face.canvas.fill(np.concatenate([middle + half, (middle - half)[::-1]]), colour, 0.85)
        face.canvas.line(middle[:6], 0.6 * colour, 0.5, 0.5)


def paint_eyes(face: Face) -> None:
    """Eyeballs behind the lids; a closed eye is a line of lashes."""
    canvas, light = face.canvas, face.light
    for side in (0, 1):
        up, low = (spline(4, 11) @ face.flat[rows[side]] for rows in (_LID_UP, _LID_LOW))
        # The lower lid meets the upper one, never crosses it.
        low = np.where(low[:, 1:] < up[:, 1:], up, low)
        _lid_skin(face, up, side)
        if (low[:, 1] - up[:, 1]).max() > 0.016 * canvas.unit:
            _eyeball(face, up, low)
        outward = (up[-1] - up[0]) / (np.linalg.norm(up[-1] - up[0]) + 1e-6)
        wing = np.concatenate([up, (up[-1] + outward * 0.02 * canvas.unit)[None]])
        canvas.line(wing, _LASH * light, 0.75 + 0.45 * face.person.lash)
        canvas.line(low[2:], face.person.ramp[70, 0] * light, 0.5, 0.6)


def _lid_skin(face: Face, up: Array, side: int) -> None:
    """The fold above the upper lid: higher over a closed eye, gone in a tightened one."""
    brow = face.flat[_BROW[side]][2]
    shut = float(face.scene.amount[side, COLUMN[43]]) ** 0.65
    tight = float(face.scene.amount[side, COLUMN[7]])
    fold = up + (brow - up[5]) * (0.16 + 0.26 * shut)
    shade, line = (face.person.ramp[k, 0] * face.light for k in (118, 62))
    face.canvas.fill(np.concatenate([up, fold[::-1]]), shade, 0.18 + 0.15 * shut)
    face.canvas.line(fold[1:-1], line, 0.7, 0.55 * (1 - 0.6 * tight))


def _eyeball(face: Face, up: Array, low: Array) -> None:
    ring = np.concatenate([up, low[::-1]])
    box = face.canvas.box(ring)
    if box is None:
        return
    unit, turn, light = face.canvas.unit, face.seen.turn, face.light
    corner = np.array([box[1].start, box[0].start], np.float32)
    eye = Canvas(np.empty_like(face.canvas.image[box]), unit)
    eye.image[...] = np.clip(_SCLERA * min(light, 1.05), 0, 255).astype(np.uint8)
    # The ball turns with the head, and sits at the level of the corners whatever the lids do.
    level = 0.5 * (up[0] + up[-1]) - corner
    gaze = turn[:2, :2] @ face.scene.gaze + turn[:2, 2] * 0.05 - turn[:2, 1] * 0.012
    centre, radius = level + gaze * unit, _IRIS_RADIUS * unit
    disc = ellipse(centre, (radius * max(face.seen.breadth, 0.8), radius))
    eye.fill(disc, face.person.iris * 0.55 * light)
    eye.fill(disc * 0.82 + centre * 0.18, face.person.iris * light)
    eye.fill(ellipse(centre, (radius * 0.42, radius * 0.42), points=12), (12, 10, 10))
    glint = centre + face.scene.light[:2] * radius * 0.45
    eye.fill(ellipse(glint, (radius * 0.22, radius * 0.22), points=8), (250, 250, 250))
    below = up[::-1] + np.array((0, 0.035 * unit), np.float32)
    eye.fill(np.concatenate([up, below]) - corner, (40, 30, 30), 0.35)
    face.canvas.clip(ring, eye.image, box)


def paint_nose(face: Face) -> None:
    """Nostrils and the wings of the nose."""
    dark, soft = (face.person.ramp[k, 0] * face.light for k in (38, 92))
    up = np.array((0.0, -face.canvas.unit), np.float32)
    for side in (0, 1):
        hole, wing = face.flat[at("nostril", "ala", side=side)]
        across = wing - face.flat[INDEX["subnasal"]]
        radius = float(np.hypot(*across)) * 0.24
        angle = float(np.arctan2(across[1], across[0]))
        face.canvas.fill(ellipse(hole + 0.012 * up, (radius, radius * 0.55), angle, 10), dark, 0.85)
        steps = ((0.10, 0.02), (0.05, 0.22), (0.0, 0.12), (-0.035, -0.12))
        arc = np.stack([wing + up * rise + across * out for rise, out in steps])
        face.canvas.line(spline(4, 8) @ arc, soft, 0.9, 0.75)


def paint_mouth(face: Face) -> None:
    """Lips, what lies between them, and the marks that AU23 and AU24 leave on the red itself."""
    canvas, flat, light, lip = face.canvas, face.flat, face.light, face.person.lip
    upper, lower = spline(7, 21) @ flat[_UPPER], spline(7, 21) @ flat[_LOWER]
    up, low = spline(5, 17) @ flat[_IN_UP], spline(5, 17) @ flat[_IN_LOW]
    low = np.maximum(low, up + np.array((0, 1e-3), np.float32))
    pressed = float(visible(face.scene.amount[:, COLUMN[24]]).mean())
    canvas.fill(np.concatenate([upper, up[::-1]]), lip * (0.86 * light), 0.80)
    canvas.fill(np.concatenate([low, lower[::-1]]), lip * min(1.06 * light, 1.2), 0.78)
    shine = 0.55 * flat[_LOWER][2:5] + 0.45 * flat[_IN_LOW][1:4]
    gloss = min(light * (1 - 0.7 * pressed), 1.1)
    canvas.line(shine, np.minimum(lip * 1.25 + 22, 255) * gloss, 0.9, 0.35)
    if (low[:, 1] - up[:, 1]).max() > 0.02 * canvas.unit:
        _cavity(face, up, low)
        canvas.line(up, lip * (0.35 * light), 0.5, 0.7)
    else:
        canvas.line(0.5 * (up + low), lip * (0.34 * light), 0.8 + 1.3 * pressed, 0.9)
    _wrinkled_red(face, (upper, lower), (up, low))


def _cavity(face: Face, up: Array, low: Array) -> None:
    """The open mouth: darkness, tongue, teeth."""
    ring = np.concatenate([up, low[::-1]])
    box = face.canvas.box(ring)
    if box is None:
        return
    unit, light = face.canvas.unit, face.light
    corner = np.array([box[1].start, box[0].start], np.float32)
    inside = Canvas(np.empty_like(face.canvas.image[box]), unit)
    inside.image[...] = np.clip(_DARKNESS * light, 0, 255).astype(np.uint8)
    down = np.array((0.0, unit), np.float32)
    left, middle, right, nose = (
        face.flat[INDEX[name]] for name in ("in_corner:l", "in_up0", "in_corner:r", "subnasal")
    )
    gap = float((low[:, 1] - up[:, 1]).max()) / unit
    if gap > 0.11:
        root = 0.5 * (low[8] + middle) + down * gap * 0.42
        inside.fill(ellipse(root, (0.17 * unit, 0.10 * unit), points=14) - corner, _TONGUE * light)
    # Teeth belong to the skull: a lip that rises uncovers them.
    edge = nose + down * max(0.29, float(middle[1] - nose[1]) / unit + 0.03)
    places = ((-0.4, -0.02), (-0.2, 0.0), (0.0, 0.0), (0.2, 0.0), (0.4, -0.02))
    arch = np.stack([edge + (right - left) * x + down * y for x, y in places])
    teeth = np.concatenate([arch, (arch - down * 0.4)[::-1]])
    inside.fill(teeth - corner, _TEETH * min(light, 1.05))
    inside.fill(np.concatenate([up, up[::-1] + down * 0.02]) - corner, (40, 10, 14), 0.45)
    face.canvas.clip(ring, inside.image, box)


def _wrinkled_red(face: Face, outer: tuple[Array, Array], inner: tuple[Array, Array]) -> None:
    """Upright lines on the red of tightened lips."""
    tight = float(visible(face.scene.amount[:, COLUMN[23]]).mean())
    if tight < 0.05:
        return
    colour, opacity = face.person.lip * 0.5 * face.light, min(0.8, 0.15 + 0.65 * tight)
    for edge, seam in zip(outer, inner, strict=True):
        for share in (0.24, 0.38, 0.5, 0.62, 0.76):
            start, end = edge[round(share * 20)], seam[round(share * 16)]
            face.canvas.line(np.stack([start, 0.48 * start + 0.52 * end]), colour, 0.6, opacity)


def paint_glasses(face: Face) -> None:
    """Frames and a hint of glass."""
    points = face.seen.project(_glasses(face.person))
    colour = face.person.glasses_colour
    for rim in (points[:16], points[16:32]):
        face.canvas.fill(rim, (225, 232, 240), 0.08)
        face.canvas.line(np.concatenate([rim, rim[:1]]), colour, 1.3)
    for start in (32, 34, 36):
        face.canvas.line(points[start : start + 2], colour, 1.1)


def _glasses(person: Identity) -> Array:
    """(38, 3): two rims of 16 points, the bridge and the two arms, in face units."""
    t = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    power = (1.0, 0.75, 0.5)[person.glasses - 1]
    x = 0.265 * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** power
    y = (0.24, 0.21, 0.19)[person.glasses - 1] * np.sign(np.sin(t)) * np.abs(
        np.sin(t)
    ) ** power + 0.03
    rims = [np.stack([sign * (x + _BALL_X), y, np.full(16, 0.80)], 1) for sign in (1, -1)]
    arms = [(-0.155, 0.0, 0.88), (0.155, 0.0, 0.88)]
    for sign in (1, -1):
        arms += [(sign * 0.69, -0.01, 0.75), (sign * 1.0, -0.02, 0.0)]
    return np.concatenate([*rims, np.array(arms)]).astype(np.float32)
