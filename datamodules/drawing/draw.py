"""Draws a person of `face_parameters` under the circumstances of one shot.

A face lies in unit coordinates (origin top left) with the eyes on the line y = 0.43 and the centre of the
mouth at (0.5, 0.72); the projection puts them at 0.43 and 0.755 of the image's side, as an aligned set has
them. All shapes are polygons and lines collected in a `_Sketch`, projected together once, drawn at twice the
size and averaged down.
"""

from __future__ import annotations

import cv2
import numpy as np

from datamodules.drawing.parameters import Colour, Person, Pixels, Points, Shot, mix, times

EYES_Y, MOUTH_Y = 0.43, 0.72
_ZOOM = 1.12  # image sides per unit: the crop of an aligned set, tight about the head
_BITS = 4  # OpenCV's fixed-point bits: 1/16 of a pixel
_TURN = np.linspace(0, 2 * np.pi, 20, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], 1)
_SPAN = np.linspace(-1, 1, 9)
_LID = (1 - _SPAN**2) ** 0.75  # height of an eyelid over the line between the eye's corners
_BOW = 1 - _SPAN**2
_ARC = np.linspace(0, np.pi, 25)  # over the head, from the side with low x to the other
_MIDDLE = np.array([0.5, 0.0])
_PLAIN = 170  # grey level of the shading map that leaves a pixel as it is


class _Sketch:
    """Polygons and lines in unit coordinates, in the order they are painted."""

    def __init__(self) -> None:
        self.points: list[Points] = []
        self.strokes: list[tuple[int, float, Colour, float, bool]] = []

    def fill(self, points: Points, colour: Colour, depth: float = 0.0, shade: bool = False) -> None:
        """Add a filled polygon; `shade` puts it on the shading map instead of the picture."""
        self.points.append(points)
        self.strokes.append((len(points), depth, colour, 0.0, shade))

    def line(self, points: Points, colour: Colour, width: float, depth: float = 0.0) -> None:
        """Add an open line."""
        self.points.append(points)
        self.strokes.append((len(points), depth, colour, width, False))

    def disc(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        colour: Colour,
        depth: float = 0.0,
        shade: bool = False,
    ) -> None:
        """Add a filled ellipse with upright axes."""
        self.fill(_CIRCLE * (rx, ry) + (x, y), colour, depth, shade)

    def render(self, canvas: Pixels, shot: Shot) -> Pixels:
        """Project and paint everything onto `canvas` [S,S,3]; the shading is multiplied in at the end."""
        side = canvas.shape[0]
        depth = np.repeat([stroke[1] for stroke in self.strokes], [stroke[0] for stroke in self.strokes])
        placed = _project(np.concatenate(self.points), depth, shot)
        fixed = np.rint((placed * side - 0.5) * (1 << _BITS)).astype(np.int32)
        small = side // 4
        shading = np.full((small, small, 3), _PLAIN, np.uint8)
        fixed_small = np.rint((placed * small - 0.5) * (1 << _BITS)).astype(np.int32)
        start = 0
        for count, _, colour, width, shade in self.strokes:
            stop = start + count
            if shade:
                cv2.fillPoly(shading, [fixed_small[start:stop]], colour, cv2.LINE_AA, _BITS)
            elif width:
                thickness = max(1, round(width * side))
                cv2.polylines(canvas, [fixed[start:stop]], False, colour, thickness, cv2.LINE_AA, _BITS)
            else:
                cv2.fillPoly(canvas, [fixed[start:stop]], colour, cv2.LINE_AA, _BITS)
            start = stop
        shading = cv2.GaussianBlur(shading, (0, 0), small * 0.022)
        shading = cv2.resize(shading, (side, side), interpolation=cv2.INTER_LINEAR)
        return np.asarray(cv2.multiply(canvas, shading, scale=1 / _PLAIN), np.uint8)


def _project(points: Points, depth: Points, shot: Shot) -> Points:
    """Turn the head a little, seen without perspective, and let the eyes stay where alignment puts them."""
    x, y = points[:, 0] - 0.5, points[:, 1]
    # the head as an upright cylinder: the middle of the face moves against its outline; what lies above the
    # skin (nose, fringe) or behind it (ears, back of the hair) has a depth of its own
    nearness = np.sqrt(np.clip(1 - (x / 0.36) ** 2, 0, 1)) + depth
    at_eyes = 0.94
    x = x + shot.yaw * (nearness - at_eyes)
    y = y + shot.pitch * (nearness - at_eyes) - 0.55
    zoom = _ZOOM * shot.scale
    cos, sin = np.cos(shot.roll) * zoom, np.sin(shot.roll) * zoom
    return np.stack([
        x * cos - y * sin + 0.5 + shot.shift[0],
        x * sin + y * cos + 0.565 + shot.shift[1],
    ], 1)  # fmt: skip


def _smooth_matrix(count: int, steps: int = 4) -> Points:
    """Return the matrix [count·steps, count] from the corners of a closed outline to a Catmull–Rom curve."""
    t = np.arange(steps) / steps
    weights = (
        np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], 1)
        / 2
    )
    matrix = np.zeros((count * steps, count))
    for corner in range(count):
        for k in range(4):
            matrix[corner * steps : (corner + 1) * steps, (corner + k - 1) % count] += weights[:, k]
    return matrix


_OUTLINE = _smooth_matrix(14)


def _outline(p: Person) -> Points:
    """Draw the head without hair [56,2], from the crown over the side with high x to the chin and back."""
    w = p.half_width
    x = np.array([0, 0.6 * w, 0.94 * w, w, w * p.cheek, w * p.jaw, p.chin_width])
    y = np.array([p.crown, p.crown + 0.035, 0.25, 0.42, 0.56, 0.715, p.chin - 0.03])
    right = np.stack([0.5 + x, y], 1)
    left = np.stack([0.5 - x[1:], y[1:]], 1)[::-1]
    return np.asarray(_OUTLINE @ np.concatenate([right, [[0.5, p.chin]], left]), np.float64)


def draw_face(p: Person, s: Shot) -> Pixels:
    """Draw one image.

    Args:
        p: who it is.
        s: how the person is seen, with the size.

    Returns:
        uint8 RGB `[3,size,size]`.
    """
    sketch, outline = _Sketch(), _outline(p)
    _body(sketch, p, s)
    _skin(sketch, p, outline)
    _beard(sketch, p, s, outline)
    _mouth(sketch, p, s)
    _nose(sketch, p)
    for side in (-1, 1):
        _eye(sketch, p, s, side)
    _hair(sketch, p)
    if s.glasses:
        _glasses(sketch, p, s)
    side = 2 * s.size
    canvas = cv2.resize(s.background, (side, side), interpolation=cv2.INTER_CUBIC)
    large = sketch.render(np.asarray(canvas, np.uint8), s)
    picture = cv2.resize(large, (s.size, s.size), interpolation=cv2.INTER_AREA)
    return _exposed(np.asarray(picture, np.uint8), s)


def _level(gain: float) -> Colour:
    return (_PLAIN * gain, _PLAIN * gain, _PLAIN * gain)


def _band(x: Points, top: Points, bottom: Points) -> Points:
    """Return the outline of what lies between two curves over the same `x`."""
    return np.concatenate([np.stack([x, top], 1), np.stack([x, bottom], 1)[::-1]])


def _body(k: _Sketch, p: Person, s: Shot) -> None:
    if p.length:  # hair that falls behind the shoulders and the ears
        w = p.half_width + p.volume_side + 0.015
        top = np.stack([0.5 - np.cos(_ARC) * w, 0.4 - np.sin(_ARC) * (0.4 - p.crown + p.volume_top)], 1)
        end = np.array([[0.5 + w * 1.12, p.length], [0.5 - w * 1.12, p.length]])
        k.fill(np.concatenate([top, end]), times(p.hair, 0.72), -0.7)
    if p.bun:
        k.disc(0.5, p.crown - 0.02, p.bun * 1.3, p.bun, times(p.hair, 0.85), -0.5)
    neck = min(0.16, 0.72 * p.half_width * (0.4 + 0.6 * p.jaw))
    shoulders = np.array([[-0.1, 1.2], [0.02, 1.0], [0.5 - neck - 0.03, 0.945], [0.5 + neck + 0.03, 0.945],
                          [0.98, 1.0], [1.1, 1.2]])  # fmt: skip
    k.fill(np.array([[0.5 - neck, 0.72], [0.5 + neck, 0.72], [0.5 + neck, 1.2], [0.5 - neck, 1.2]]),
           times(p.skin, 0.78), -0.6)  # fmt: skip
    k.fill(shoulders, s.clothes, -0.6)
    k.disc(0.5, 0.95, neck, 0.035, times(p.skin, 0.84), -0.6)
    for side in () if p.length else (-1, 1):
        x = 0.5 + side * (p.half_width * 0.97 + p.ear_out * 0.5)
        k.disc(x, p.ear_y, p.ear_out * 0.5 + 0.014, p.ear_height, times(p.skin, 0.92), -0.3)
        k.disc(x, p.ear_y, p.ear_out * 0.25 + 0.006, p.ear_height * 0.6, times(p.skin, 0.75), -0.3)


def _skin(k: _Sketch, p: Person, outline: Points) -> None:
    k.fill(outline, p.skin)
    k.fill(outline, _level(0.82), shade=True)
    k.fill((outline - (0.5, 0.5)) * 0.86 + (0.5, 0.49), _level(1.0), shade=True)
    k.disc(0.5, 0.27, 0.13, 0.06, _level(1.07), shade=True)
    for side in (-1, 1):
        rosy: Colour = (_PLAIN * 1.05, _PLAIN * (1.04 - 0.17 * p.blush), _PLAIN * (1.04 - 0.15 * p.blush))
        k.disc(0.5 + side * 0.145, 0.58, 0.05, 0.04, rosy, shade=True)
        k.disc(0.5 + side * p.eye_spacing, EYES_Y - 0.012, p.eye_width * 1.15, 0.04, _level(0.88), shade=True)
        k.disc(0.5 + side * (p.nose_bridge + 0.022), 0.52, 0.012, 0.075, _level(0.87), shade=True)
    k.fill(
        np.array([[0.495, 0.42], [0.505, 0.42], [0.52, p.nose_tip], [0.48, p.nose_tip]]),
        _level(1.14),
        0.2,
        True,
    )
    k.disc(0.5, MOUTH_Y + p.lower_lip + 0.03, 0.045, 0.016, _level(0.84), shade=True)
    dark = times(p.skin, 0.72)
    spot = mix(p.skin, (96, 46, 24), 0.5) if len(p.marks) > 3 else times(p.skin, 0.45)
    for x, y, radius in p.marks.tolist():
        k.disc(x, y, radius, radius, spot)
    if p.age > 0.15:
        crease = mix(p.skin, dark, p.age)
        for row in range(1 + int(p.age * 2.5)):
            y = 0.29 - 0.035 * row
            k.line(np.stack([0.5 + 0.12 * _SPAN, y - 0.01 * _BOW], 1), crease, 0.008)
        for side in (-1, 1):
            fold = np.array([[0.05, 0.625], [0.085, 0.67], [0.1, 0.73]]) * (side, 1) + _MIDDLE
            k.line(fold, crease, 0.009, 0.1)
            for slant in (-0.018, 0.006, 0.03) if p.age > 0.5 else ():
                corner = p.eye_spacing + p.eye_width
                k.line(np.array([[corner + 0.012, 0.432 + slant * 0.4], [corner + 0.035, 0.432 + slant]])
                       * (side, 1) + _MIDDLE, crease, 0.006)  # fmt: skip


def _beard(k: _Sketch, p: Person, s: Shot, outline: Points) -> None:
    w, lip = p.half_width, MOUTH_Y
    if p.beard:
        lower = outline[14:43]  # from cheek over the chin to the other cheek
        inner = np.array([[-0.62 * w, 0.66], [-0.085, 0.665], [0.085, 0.665], [0.62 * w, 0.66]]) + _MIDDLE
        drop = np.where(lower[:, 1:] > 0.8, 0.02 * p.beard, 0) * (0, 1)
        k.fill(np.concatenate([lower + drop, inner]), mix(p.skin, p.hair, p.beard))
    if p.chin_beard:
        k.disc(0.5, (lip + p.chin) / 2 + 0.045, 0.06 + p.chin_width * 0.3, (p.chin - lip) / 2 + 0.005,
               mix(p.skin, p.hair, p.chin_beard), 0.05)  # fmt: skip
    if p.moustache:
        upper = np.stack(
            [0.5 + _SPAN * 0.105, lip - 0.005 - 0.05 * (1 - _SPAN**4) + 0.012 * s.smile * -(_SPAN**2)], 1
        )
        under = np.stack([0.5 + _SPAN[::-1] * 0.105, lip + 0.018 - 0.028 * _BOW], 1)
        k.fill(np.concatenate([upper, under]), mix(p.skin, p.hair, p.moustache), 0.05)


def _mouth(k: _Sketch, p: Person, s: Shot) -> None:
    width = p.mouth_width * (1 + 0.14 * s.smile)
    x = 0.5 + _SPAN * width
    corner = -0.022 * s.smile * (_SPAN**2)  # a smile lifts the corners, hence a smaller y
    open_ = s.mouth_open
    bow = 1 - p.mouth_bow * np.exp(-((_SPAN / 0.22) ** 2))  # the dent in the middle of the upper lip
    gap_top = MOUTH_Y - open_ * 0.35 * _BOW + corner
    gap_bottom = MOUTH_Y + open_ * 0.65 * _BOW + corner
    top = gap_top - p.upper_lip * np.sqrt(_BOW) * bow
    bottom = gap_bottom + p.lower_lip * _BOW
    k.fill(_band(x, top, gap_top), times(p.lips, 0.86), 0.1)
    k.fill(_band(x, gap_bottom, bottom), p.lips, 0.1)
    if open_ > 0.004:
        k.fill(_band(x, gap_top, gap_bottom), (72, 26, 30), 0.08)
        teeth = gap_top + np.minimum(0.018, (gap_bottom - gap_top) * 0.6) * _BOW
        k.fill(_band(x, gap_top, teeth)[1:-1], (236, 230, 220), 0.08)
    else:
        k.line(np.stack([x, gap_top], 1), times(p.lips, 0.5), 0.008, 0.1)


def _nose(k: _Sketch, p: Person) -> None:
    y, w = p.nose_tip, p.nose_width
    dark = times(p.skin, 0.68)
    k.disc(0.5, y - 0.012, w * 0.62, 0.03, times(p.skin, 1.03), 0.25)
    for side in (-1, 1):
        wing = np.array([[w * 0.8, y - 0.04], [w, y - 0.018], [w * 0.95, y + 0.004], [w * 0.55, y + 0.012]])
        k.line(wing * (side, 1) + _MIDDLE, dark, 0.008, 0.2)
        k.disc(
            0.5 + side * w * 0.5, y + 0.007, w * 0.26, 0.006 + 0.004 * p.nostrils, times(p.skin, 0.4), 0.22
        )
        ridge = np.array(
            [[p.nose_bridge + 0.012, 0.40], [p.nose_bridge, 0.46], [p.nose_bridge + 0.003, 0.53]]
        )
        k.line(ridge * (side, 1) + _MIDDLE, times(p.skin, 0.88), 0.008, 0.1)
    k.line(
        np.array([[-w * 0.3, y + 0.014], [0, y + 0.019], [w * 0.3, y + 0.014]]) + _MIDDLE, dark, 0.007, 0.25
    )


def _eye(k: _Sketch, p: Person, s: Shot, side: int) -> None:
    centre = np.array([0.5 + side * p.eye_spacing, EYES_Y])
    cos, sin = np.cos(p.eye_slant), np.sin(p.eye_slant)

    def place(x: Points, y: Points) -> Points:
        # x runs outwards from the nose on both sides; a positive slant lifts the outer corner
        placed: Points = np.stack([(x * cos + y * sin) * side, y * cos - x * sin], 1) + centre
        return placed

    height = p.eye_height * s.lids
    x, upper, lower = _SPAN * p.eye_width, -height * _LID, 0.6 * height * _BOW
    k.fill(place(np.concatenate([x, x[::-1]]), np.concatenate([upper, lower[::-1]])), (240, 236, 230))
    gx, gy = s.gaze[0] * 0.035 * side, s.gaze[1] * 0.03 - height * 0.12
    ix = np.clip(_CIRCLE[:, 0] * p.iris_size + gx, -p.eye_width, p.eye_width)
    share = 1 - (ix / p.eye_width) ** 2
    for size, colour in ((1.0, times(p.iris, 0.55)), (0.82, p.iris), (0.42, (16.0, 12.0, 12.0))):
        iy = np.clip(_CIRCLE[:, 1] * p.iris_size * size + gy, -height * share**0.75, 0.6 * height * share)
        k.fill(place((ix - gx) * size + gx, iy), colour)
    k.disc(centre[0] + gx * side + 0.006, EYES_Y + gy - 0.006, 0.0055, 0.0055, (255, 255, 255))
    lash: Colour = mix(times(p.hair, 0.4), (20, 14, 14), 0.6)
    k.line(place(x, upper), lash, p.lash)
    k.line(place(x[2:], lower[2:]), times(p.skin, 0.62), 0.006)
    if p.lid_fold > 0.4:
        k.line(place(x, upper - 0.012 * p.lid_fold - 0.004), times(p.skin, 0.72), 0.007)
    if p.bags > 0.1:
        k.line(place(x, lower + 0.016 + 0.006 * _BOW), mix(p.skin, times(p.skin, 0.6), p.bags), 0.009)
    # the brow: an arched band, thick inside, thin outside
    bx = _SPAN * p.brow_width
    along = p.brow_slant * -bx - p.brow_arch * _BOW - p.brow_gap - s.brow_raise
    thick = p.brow_thickness * (1 - 0.35 * _SPAN) * np.sqrt(np.clip(1.15 - _SPAN**2, 0, 1)) / 2
    ends = np.concatenate([np.stack([bx, along - thick], 1), np.stack([bx, along + thick], 1)[::-1]])
    k.fill(ends * (side, 1) + centre + (side * 0.006, 0), p.brow)


def _hair(k: _Sketch, p: Person) -> None:
    if p.bald:
        return
    w = p.half_width
    wave = p.curl * np.sin(_ARC * p.curls) if p.curl else 0.0
    # outer edge: half an ellipse over the head and down to the sideburns
    ox = 0.5 - np.cos(_ARC) * (w + p.volume_side + 0.008 + wave)
    oy = 0.36 - np.sin(_ARC) ** 0.8 * (0.36 - p.crown + p.volume_top + wave)
    # inner edge: the hairline, a power curve about the part, falling to the temples
    t = np.linspace(-1, 1, len(_ARC))
    away = np.abs(t - p.part) / np.where(t > p.part, 1 - p.part, 1 + p.part)
    iy = p.hairline + (p.sideburn - p.hairline) * away**p.hairline_power
    iy = iy - p.recess * np.sin(np.pi * np.abs(t)) ** 2 + (0.5 * wave if p.curl else 0)
    ix = 0.5 + t * w * 0.985
    bottom = p.length * 0.93 if p.length else p.sideburn
    spread = p.volume_side * 0.4 + (0.02 if p.length else 0.003)
    right = np.array([[0.5 + w + spread, bottom], [0.5 + w * 0.93, bottom]])
    left = np.array([[0.5 - w * 0.93, bottom], [0.5 - w - spread, bottom]])
    outer, inner = np.stack([ox, oy], 1), np.stack([ix, iy], 1)
    k.fill(np.concatenate([outer, right, inner[::-1], left]), p.hair, 0.05)
    for step, tone in ((2, 0.72), (3, 1.22)):  # strands from the hairline to the crown
        colour = mix(p.hair, times(p.hair, tone), p.strands)
        for n in range(step, len(_ARC) - 2, step + 1):
            a, b = inner[n], outer[n]
            k.line(np.stack([a, (a + b) / 2 + (0.01 * t[n], 0), b * 0.9 + a * 0.1]), colour, 0.008, 0.05)


def _glasses(k: _Sketch, p: Person, s: Shot) -> None:
    square = s.glasses == 2
    power = 0.45 if square else 1.0
    ring = np.sign(_CIRCLE) * np.abs(_CIRCLE) ** power * ((0.078, 0.05) if square else (0.068, 0.062))
    ring = np.concatenate([ring, ring[:1]])
    reach = max(p.eye_spacing, 0.095)
    for side in (-1, 1):
        k.line(ring + np.array([0.5 + side * reach, EYES_Y + 0.008]), s.glasses_colour, 0.013, 0.2)
        arm = np.array([[reach + 0.07, EYES_Y - 0.005], [p.half_width + 0.01, EYES_Y - 0.015]])
        k.line(arm * (side, 1) + _MIDDLE, s.glasses_colour, 0.012)
    bridge = np.array([[-reach + 0.068, 0.432], [0, 0.418], [reach - 0.068, 0.432]]) + _MIDDLE
    k.line(bridge, s.glasses_colour, 0.012, 0.25)


def _exposed(picture: Pixels, s: Shot) -> Pixels:
    """Add light from a side, gain, gamma, colour cast and sensor noise; return [3,size,size]."""
    at = (np.arange(s.size, dtype=np.float32) + 0.5) / s.size - 0.5
    fall = s.gain * (1 + s.light[0] * at[None, :] + s.light[1] * at[:, None])
    levels = 255 * (np.arange(256, dtype=np.float32) / 255) ** s.gamma
    curve = levels[:, None] * np.array(s.cast, np.float32)
    lit = np.stack([curve[:, c][picture[..., c]] for c in range(3)]) * fall
    if s.noise:
        lit += np.float32(s.noise) * s.generator.standard_normal(lit.shape, dtype=np.float32)
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)
