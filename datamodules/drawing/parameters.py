"""Faces of nobody as numbers: what makes a person, and what differs between two images of one.

Both are pure functions of a seed and the person's (and the image's) number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]  # RGB, 0 … 255
Points = NDArray[np.float64]  # [n,2] x and y, or [n,3] with a radius, in image sides
Pixels = NDArray[np.uint8]

_SKINS: list[Colour] = [
    (253, 226, 208), (243, 204, 176), (228, 178, 143), (204, 148, 108), (160, 108, 74), (112, 73, 51),
    (74, 49, 38),
]  # fmt: skip
_HAIRS: list[Colour] = [
    (28, 24, 26), (52, 36, 28), (86, 56, 36), (128, 84, 48), (150, 66, 32), (192, 104, 50), (200, 160, 96),
    (232, 206, 150), (140, 136, 134), (216, 214, 212),
]  # fmt: skip
_IRISES: list[Colour] = [
    (58, 36, 22),
    (106, 70, 38),
    (120, 112, 60),
    (70, 116, 84),
    (74, 118, 168),
    (122, 134, 146),
]


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Blend two colours: `a` at share 0, `b` at share 1."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def times(colour: Colour, gain: float) -> Colour:
    """Brighten or darken a colour, up to 255 a channel."""
    return (min(255.0, colour[0] * gain), min(255.0, colour[1] * gain), min(255.0, colour[2] * gain))


class _Draws:
    """Uniform numbers of one generator, taken one after the other."""

    def __init__(self, count: int, *key: int) -> None:
        self.generator = np.random.default_rng(key)
        self._values: Iterator[float] = iter(self.generator.random(count).tolist())

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._values)

    def below(self, count: int) -> int:
        return int(next(self._values) * count)

    def chance(self, share: float) -> bool:
        return next(self._values) < share

    def pick(self, colours: Sequence[Colour], spread: float) -> Colour:
        base = colours[self.below(len(colours))]
        gain = self.between(1 - spread, 1 + spread)
        return times((base[0], base[1] * self.between(0.94, 1.06), base[2] * self.between(0.88, 1.12)), gain)


@dataclass(frozen=True, eq=False)
class Person:
    """What stays the same in all images of one person; lengths in image sides.

    Drawn by `person`; `marks` are freckles and moles as rows of (x, y, radius).
    """

    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    brow: Colour
    # outline of the head
    half_width: float
    crown: float
    cheek: float
    jaw: float
    chin_width: float
    chin: float
    # eyes and brows
    eye_spacing: float
    eye_width: float
    eye_height: float
    eye_slant: float
    iris_size: float
    lid_fold: float
    lash: float
    bags: float
    brow_gap: float
    brow_width: float
    brow_thickness: float
    brow_arch: float
    brow_slant: float
    # nose, mouth, ears
    nose_tip: float
    nose_width: float
    nose_bridge: float
    nostrils: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    mouth_bow: float
    ear_height: float
    ear_out: float
    ear_y: float
    # skin
    blush: float
    age: float
    marks: Points
    # hair
    bald: bool
    hairline: float
    hairline_power: float
    part: float
    recess: float
    volume_top: float
    volume_side: float
    curl: float
    curls: int
    length: float
    sideburn: float
    strands: float
    bun: float
    # beard
    beard: float
    chin_beard: float
    moustache: float


@lru_cache(maxsize=4096)
def person(seed: int, identity: int) -> Person:
    """Draw a person as a function of (seed, identity) alone.

    Args:
        seed: of the whole set, at least 0.
        identity: number of the person, at least 0.
    """
    d = _Draws(120, seed, 1, identity)
    tone = d.between(0, len(_SKINS) - 1.001)
    skin = mix(_SKINS[int(tone)], _SKINS[int(tone) + 1], tone % 1)
    skin = times((skin[0], skin[1] * d.between(0.95, 1.04), skin[2] * d.between(0.88, 1.1)), 1)
    age = max(0.0, d.between(-0.6, 1))
    natural = _HAIRS[:4] if tone > 3.5 else _HAIRS[:-2]
    hair = d.pick(natural + _HAIRS[-2:] if age > 0.3 else natural, 0.15)  # only the old are grey
    brow = mix(times(hair, d.between(0.5, 0.95)), skin, 0.1)
    red: Colour = (178, 58, 66)
    lips = mix(times(skin, d.between(0.72, 0.92)), red, d.between(0.1, 0.75))
    half_width = d.between(0.225, 0.29)
    nose_tip = d.between(0.555, 0.635)
    rows = [(d.between(-0.19, 0.19), d.between(0.28, 0.8), d.between(0.004, 0.0065)) for _ in range(14)]
    # towards the chin the face is narrower
    marks = np.array([(0.5 + x * min(1.0, 1.9 - 1.6 * y), y, radius) for x, y, radius in rows])
    speckled = d.chance(0.3)
    marks = marks[: 14 if speckled else d.below(3)]
    if not speckled:
        marks[:, 2] *= 2  # few marks are moles, many are freckles
    style = d.below(8)  # cropped, side part, curtains, fringe, receding, afro, wavy, bald
    long = d.chance((0.15, 0.15, 0.7, 0.7, 0.15, 0.15, 0.7, 0.0)[style])
    bearded = d.chance(0.35)
    kind = d.below(4)  # stubble, full beard, goatee, moustache
    beard = (0.3, 0.85, 0.0, 0.0)[kind] * d.between(0.7, 1.1) if bearded and not long else 0.0
    chin_beard = 0.85 if bearded and not long and kind == 2 else 0.0
    return Person(
        skin=skin,
        hair=hair,
        iris=d.pick(_IRISES, 0.2),
        lips=lips,
        brow=brow,
        half_width=half_width,
        crown=d.between(0.07, 0.13),
        cheek=d.between(0.9, 1.02),
        jaw=d.between(0.62, 0.95),
        chin_width=d.between(0.05, 0.13),
        chin=d.between(0.855, 0.945),
        eye_spacing=d.between(0.105, 0.14),
        eye_width=d.between(0.038, 0.06),
        eye_height=d.between(0.013, 0.034),
        eye_slant=d.between(-0.22, 0.28),
        iris_size=d.between(0.018, 0.027),
        lid_fold=d.between(0.2, 1.4),
        lash=d.between(0.004, 0.012),
        bags=d.between(0, 0.5),
        brow_gap=d.between(0.055, 0.095),
        brow_width=d.between(0.045, 0.075),
        brow_thickness=d.between(0.006, 0.024),
        brow_arch=d.between(-0.002, 0.026),
        brow_slant=d.between(-0.22, 0.25),
        nose_tip=nose_tip,
        nose_width=d.between(0.032, 0.068),
        nose_bridge=d.between(0.012, 0.026),
        nostrils=d.between(0.3, 1),
        mouth_width=d.between(0.06, 0.11),
        upper_lip=d.between(0.006, 0.022),
        lower_lip=d.between(0.009, 0.03),
        mouth_bow=d.between(0, 0.5),
        ear_height=d.between(0.05, 0.085),
        ear_out=d.between(0.012, 0.045),
        ear_y=d.between(0.45, 0.52),
        blush=d.between(0, 1),
        age=age,
        marks=marks,
        bald=style == 7,
        hairline=(0.2, 0.2, 0.17, 0.325, 0.17, 0.24, 0.22, 0.2)[style] + d.between(-0.03, 0.03),
        hairline_power=(5.0, 2.8, 1.1, 7.0, 5.0, 3.0, 3.0, 5.0)[style] * d.between(0.8, 1.3),
        part=d.between(0.25, 0.75) * (1 if d.chance(0.5) else -1)
        if style in (1, 6)
        else d.between(-0.1, 0.1),
        recess=d.between(0.03, 0.06) if style == 4 else 0.0,
        volume_top=(0.015, 0.05, 0.035, 0.04, 0.025, 0.1, 0.06, 0.0)[style] * d.between(0.6, 1.4),
        volume_side=(0.006, 0.02, 0.03, 0.025, 0.01, 0.08, 0.04, 0.0)[style] * d.between(0.6, 1.4),
        curl=(0.0, 0.0, 0.0, 0.0, 0.0, 0.012, 0.012, 0.0)[style],
        curls=9 + d.below(10),
        length=d.between(0.7, 1.1) if long else 0.0,
        sideburn=d.between(0.42, 0.58),
        strands=d.between(0.5, 1),
        bun=d.between(0.05, 0.08) if style in (2, 4) and d.chance(0.3) else 0.0,
        beard=beard,
        chin_beard=chin_beard,
        moustache=0.85 if bearded and kind in (1, 2, 3) and not long else beard,
    )


@dataclass(frozen=True, eq=False)
class Shot:
    """What differs between two images of one person, drawn by `shot`."""

    size: int
    # pose
    yaw: float
    pitch: float
    roll: float
    scale: float
    shift: tuple[float, float]
    # expression
    smile: float
    mouth_open: float
    brow_raise: float
    lids: float
    gaze: tuple[float, float]
    # things
    glasses: int  # 0 none, 1 round, 2 square
    glasses_colour: Colour
    clothes: Colour
    background: Pixels  # [4,4,3], enlarged smoothly
    # light
    light: tuple[float, float]
    gain: float
    gamma: float
    cast: Colour
    noise: float
    generator: np.random.Generator = field(repr=False)


def shot(seed: int, identity: int, image: int, size: int, nuisance: float) -> Shot:
    """Draw the circumstances of one image as a function of (seed, identity, image) alone.

    Args:
        seed: of the whole set, at least 0.
        identity: number of the person, at least 0.
        image: number of the image among the person's, at least 0.
        size: side of the image in pixels.
        nuisance: how much the circumstances vary, 0 (all the same) … 2.
    """
    d = _Draws(60, seed, 2, identity, image)

    def vary(most: float) -> float:
        return nuisance * d.between(-most, most)

    grey: Colour = (150, 150, 150)
    share = min(1.0, nuisance)

    def colour() -> Colour:
        vivid = (d.between(20, 240), d.between(20, 240), d.between(20, 240))
        level = sum(vivid) / 3
        return mix(grey, mix((level, level, level), vivid, 0.6), share)

    ends = np.array([colour(), colour()])
    across = np.linspace(0, 1, 4)
    ramp = np.add.outer(across * d.between(-1, 1), across * d.between(-1, 1)) / 2 + 0.5
    rough = nuisance * d.between(0, 30)
    blotches = d.generator.random((4, 4, 1)) - 0.5
    background = ends[0] + (ends[1] - ends[0]) * ramp[..., None] + rough * 2 * blotches
    return Shot(
        size=size,
        yaw=vary(0.05),
        pitch=vary(0.025),
        roll=vary(0.07),
        scale=1 + vary(0.04),
        shift=(vary(0.018), vary(0.018)),
        smile=vary(1),
        mouth_open=max(0.0, vary(0.045) - 0.01),
        brow_raise=vary(0.014),
        lids=1 + vary(0.3),
        gaze=(vary(0.4), vary(0.2)),
        glasses=(1 + d.below(2)) * d.chance(0.18 * share),
        glasses_colour=times((60, 46, 40), d.between(0.3, 2)),
        clothes=colour(),
        background=np.clip(background, 0, 255).astype(np.uint8),
        light=(vary(0.65), vary(0.45)),
        gain=float(np.exp(vary(0.25) - 0.05 * share)),
        gamma=float(np.exp(vary(0.25))),
        cast=(1 + vary(0.07), 1 + vary(0.03), 1 + vary(0.09)),
        noise=nuisance * d.between(1, 6),
        generator=d.generator,
    )
