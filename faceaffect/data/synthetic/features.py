"""Eyes, brows, nose and mouth."""

from typing import Final

import cv2
import numpy as np

from faceaffect.data.synthetic.canvas import Canvas, ellipse, rgb
from faceaffect.data.synthetic.facs import COLUMN
from faceaffect.data.synthetic.geometry import INDEX, MIRROR, Array, at, spline
from faceaffect.data.synthetic.identity import Identity
from faceaffect.data.synthetic.scene import Scene

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


def paint_brows(canvas: Canvas, person: Identity, flat: Array, light: float) -> None:
    """Two tapering strokes; the line of the bones below them comes from the relief."""
    for side in (0, 1):
        middle = spline(5, 9) @ flat[_BROW[side]]
        tangent = np.concatenate(
            [middle[1:2] - middle[:1], middle[2:] - middle[:-2], middle[-1:] - middle[-2:-1]]
        )
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-6
        half = normal * _TAPER * person.brow_width * canvas.unit
        ring = np.concatenate([middle + half, (middle - half)[::-1]])
        canvas.fill(ring, person.brow * light, 0.85)
        canvas.line(middle[:6], person.brow * (0.6 * light), 0.5, 0.5)


def paint_eyes(
    canvas: Canvas, person: Identity, scene: Scene, flat: Array, turn: Array, light: float
) -> None:
    """Eyeballs behind the lids; a closed eye is a line of lashes."""
    skin = person.ramp[:, 0].astype(np.float32)
    for side in (0, 1):
        up, low = spline(4, 11) @ flat[_LID_UP[side]], spline(4, 11) @ flat[_LID_LOW[side]]
        # Away from the viewer's midline the lower lid meets the upper one, never crosses it.
        low = np.where(low[:, 1:] < up[:, 1:], up, low)
        _lid_skin(canvas, person, scene, flat, up, side, skin, light)
        if (low[:, 1] - up[:, 1]).max() > 0.016 * canvas.unit:
            _eyeball(canvas, person, scene, up, low, turn, side, light)
        lash = np.array((28.0, 20.0, 20.0)) * light
        outward = (up[-1] - up[0]) / (np.linalg.norm(up[-1] - up[0]) + 1e-6)
        wing = np.concatenate([up, (up[-1] + outward * 0.02 * canvas.unit)[None]])
        canvas.line(wing, lash, 0.75 + 0.45 * person.lash)
        canvas.line(low[2:], skin[70] * light, 0.5, 0.6)


def _lid_skin(
    canvas: Canvas,
    person: Identity,
    scene: Scene,
    flat: Array,
    up: Array,
    side: int,
    skin: Array,
    light: float,
) -> None:
    """The fold above the upper lid: higher over a closed eye, gone in a tightened one."""
    brow = flat[_BROW[side]][2]
    shut = float(scene.amount[side, COLUMN[43]]) ** 0.65
    tight = float(scene.amount[side, COLUMN[7]])
    fold = up + (brow - up[5]) * (0.16 + 0.26 * shut + 0.03 * person.relief[0, 3])
    canvas.fill(np.concatenate([up, fold[::-1]]), skin[118] * light, 0.18 + 0.15 * shut)
    canvas.line(fold[1:-1], skin[62] * light, 0.7, 0.55 * (1 - 0.6 * tight))


def _eyeball(
    canvas: Canvas,
    person: Identity,
    scene: Scene,
    up: Array,
    low: Array,
    turn: Array,
    side: int,
    light: float,
) -> None:
    ring = np.concatenate([up, low[::-1]])
    box = canvas.box(ring)
    if box is None:
        return
    corner = np.array([box[1].start, box[0].start], np.float32)
    eye = np.empty_like(canvas.image[box])
    eye[...] = np.clip(np.array((238, 234, 230)) * min(light, 1.05), 0, 255).astype(np.uint8)
    # The ball turns with the head, and sits at the level of the corners whatever the lids do.
    level = 0.5 * (up[0] + up[-1])
    ahead = turn[:2, 2] * 0.05
    gaze = turn[:2, :2] @ scene.gaze
    centre = level - corner + (gaze + ahead + turn[:2, 1] * -0.012) * canvas.unit
    radius = _IRIS_RADIUS * canvas.unit
    scaled = Canvas(eye, canvas.unit)
    disc = ellipse(centre, (radius * max(float(turn[0, 0]), 0.8), radius))
    scaled.fill(disc, person.iris * 0.55 * light)
    scaled.fill(disc * 0.82 + centre * 0.18, person.iris * light)
    scaled.fill(ellipse(centre, (radius * 0.42, radius * 0.42), points=12), (12.0, 10.0, 10.0))
    glint = centre + np.array((MIRROR[0] * scene.light[0], scene.light[1])) * radius * 0.45
    scaled.fill(
        ellipse(glint.astype(np.float32), (radius * 0.22, radius * 0.22), points=8),
        (250.0, 250.0, 250.0),
    )
    scaled.fill(
        np.concatenate([up, up[::-1] + np.array((0, 0.035 * canvas.unit))]) - corner,
        (40.0, 30.0, 30.0),
        0.35,
    )
    canvas.clip(ring, eye, box)


def paint_nose(canvas: Canvas, person: Identity, flat: Array, light: float) -> None:
    """Nostrils and the wings of the nose."""
    dark = person.ramp[38, 0].astype(np.float32) * light
    soft = person.ramp[92, 0].astype(np.float32) * light
    tip = flat[INDEX["subnasal"]]
    for side in (0, 1):
        hole, wing = flat[at("nostril", "ala", side=side)]
        across = wing - tip
        angle = float(np.arctan2(across[1], across[0]))
        radius = np.hypot(*across) * 0.24
        canvas.fill(
            ellipse(hole - (0, 0.012 * canvas.unit), (radius, radius * 0.55), angle, 10), dark, 0.85
        )
        up = np.array((0.0, -1.0)) * canvas.unit
        arc = np.stack([wing + up * 0.10 + across * 0.02, wing + up * 0.05 + across * 0.22,
        wing + across * 0.12,
                        wing - across * 0.12 - up * 0.035])  # fmt: skip
        canvas.line(spline(4, 8) @ arc.astype(np.float32), soft, 0.9, 0.75)


def paint_mouth(canvas: Canvas, person: Identity, scene: Scene, flat: Array, light: float) -> None:
    """Lips, what lies between them, and the marks that AU23 and AU24 leave on the red itself."""
    amount = scene.amount.mean(0)
    upper, lower = spline(7, 21) @ flat[_UPPER], spline(7, 21) @ flat[_LOWER]
    seam_up, seam_low = spline(5, 17) @ flat[_IN_UP], spline(5, 17) @ flat[_IN_LOW]
    seam_low = np.maximum(seam_low, seam_up + np.array((0, 1e-3), np.float32))
    pressed = float(amount[COLUMN[24]])
    shape = np.concatenate([upper, seam_up[::-1]])
    canvas.fill(shape, person.lip * (0.86 * light), 0.80)
    canvas.fill(np.concatenate([seam_low, lower[::-1]]), person.lip * min(1.06 * light, 1.2), 0.78)
    _shine(canvas, person, flat, light * (1 - 0.7 * pressed))
    if (seam_low[:, 1] - seam_up[:, 1]).max() > 0.02 * canvas.unit:
        _cavity(canvas, flat, seam_up, seam_low, light)
        canvas.line(seam_up, person.lip * (0.35 * light), 0.5, 0.7)
    else:
        middle = 0.5 * (seam_up + seam_low)
        canvas.line(middle, person.lip * (0.34 * light), 0.8 + 1.3 * pressed, 0.9)
    _wrinkled_red(canvas, person, amount, upper, lower, seam_up, seam_low, light)


def _shine(canvas: Canvas, person: Identity, flat: Array, light: float) -> None:
    low, seam = flat[_LOWER][2:5], flat[_IN_LOW][1:4]
    canvas.line(
        0.55 * low + 0.45 * seam,
        np.minimum(person.lip * 1.25 + 22, 255) * min(light, 1.1),
        0.9,
        0.35,
    )


def _cavity(canvas: Canvas, flat: Array, up: Array, low: Array, light: float) -> None:
    ring = np.concatenate([up, low[::-1]])
    box = canvas.box(ring)
    if box is None:
        return
    corner = np.array([box[1].start, box[0].start], np.float32)
    inside = np.empty_like(canvas.image[box])
    inside[...] = np.clip(np.array((62, 22, 26)) * light, 0, 255).astype(np.uint8)
    mouth = Canvas(inside, canvas.unit)
    down = np.array((0.0, 1.0), np.float32) * canvas.unit
    left, middle, right = (flat[INDEX[n]] for n in ("in_corner:l", "in_up0", "in_corner:r"))
    gap = float((low[:, 1] - up[:, 1]).max()) / canvas.unit
    if gap > 0.11:
        tongue = ellipse(
            0.5 * (low[8] + middle) + down * gap * 0.42,
            (0.17 * canvas.unit, 0.10 * canvas.unit),
            points=14,
        )
        mouth.fill(tongue - corner, np.array((178.0, 84.0, 88.0)) * light)
    # Teeth belong to the skull: a lip that rises uncovers them.
    nose = flat[INDEX["subnasal"]]
    edge = nose + down * max(0.29, float(middle[1] - nose[1]) / canvas.unit + 0.03)
    span = (right - left) * 0.40
    arch = np.stack(
        [
            edge - span - down * 0.02,
            edge - span * 0.5,
            edge,
            edge + span * 0.5,
            edge + span - down * 0.02,
        ]
    )
    teeth = np.concatenate([arch, (arch - down * 0.4)[::-1]]) - corner
    mouth.fill(teeth.astype(np.float32), np.array((236.0, 230.0, 220.0)) * min(light, 1.05))
    mouth.fill(np.concatenate([up, up[::-1] + down * 0.02]) - corner, (40.0, 10.0, 14.0), 0.45)
    canvas.clip(ring, inside, box)


def _wrinkled_red(
    canvas: Canvas,
    person: Identity,
    amount: Array,
    upper: Array,
    lower: Array,
    up: Array,
    low: Array,
    light: float,
) -> None:
    tight = float(amount[COLUMN[23]])
    if tight < 0.1:
        return
    colour = rgb(person.lip * 0.55 * light)
    opacity = min(0.7, 0.15 + 0.55 * tight)
    for share in (0.22, 0.34, 0.45, 0.57, 0.67, 0.78):
        a, b = round(share * 20), round(share * 16)
        canvas.line(np.stack([upper[a], 0.45 * upper[a] + 0.55 * up[b]]), colour, 0.6, opacity)
        canvas.line(np.stack([lower[a], 0.5 * lower[a] + 0.5 * low[b]]), colour, 0.6, opacity)


def paint_glasses(canvas: Canvas, person: Identity, points: Array) -> None:
    """Frames and a hint of glass. `points` are the pixels of `glasses_points`."""
    left, right, arms = points[:16], points[16:32], points[32:]
    for lens in (left, right):
        canvas.fill(lens, (225.0, 232.0, 240.0), 0.08)
        cv2.polylines(canvas.image, [np.rint(lens * 16).astype(np.int32)], True,
        rgb(person.glasses_colour),
                      max(1, round(1.3 * canvas.pen)), cv2.LINE_AA, 4)  # fmt: skip
    for a, b in ((0, 1), (2, 3), (4, 5)):
        canvas.line(arms[[a, b]], person.glasses_colour, 1.1)


def glasses_points(person: Identity) -> Array:
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
