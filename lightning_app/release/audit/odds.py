"""How surely a sample finds what leaks in a release."""

from __future__ import annotations

import math


def detection(images: int, compared: int, leaking: int) -> float:
    """Return the probability that a sample holds at least one leaking image.

    The sample is drawn without putting back, so the number of leaking images in it is hypergeometric, and the
    probability is 1 − C(N − K, n) / C(N, n).

    Args:
        images: N, how many there are.
        compared: n, how many of them are in the sample.
        leaking: K, how many of them leak.

    Returns:
        In [0,1]; 1 where more is compared than can be clean.

    Raises:
        ValueError: compared or leaking is not in 0 … images.

    Source: Johnson, Kotz, Kemp, "Univariate Discrete Distributions", section 6.2.
    """
    for name, value in (("compared", compared), ("leaking", leaking)):
        if not 0 <= value <= images:
            raise ValueError(f"{name}: {value} is not in 0 … {images} images")
    if compared > images - leaking:
        return 1.0
    few, many = sorted((compared, leaking))  # the formula is the same with the two exchanged
    missed = math.fsum(math.log1p(-many / (images - i)) for i in range(few))
    return max(0.0, -math.expm1(missed))


def typical(images: int, compared: int, together: int = 1) -> dict[str, float]:
    """Return `detection` for one, for ten and for 1 % of leaking images, as far as there are so many.

    Where images are drawn in groups, whoever makes the release puts those that leak into as few of them as they fill:
    so many groups are looked for then.

    Args:
        images: how many there are.
        compared: how many of them are in the sample.
        together: images of a group.

    Returns:
        Keys `one`, `ten`, `one_percent` (rounded up).
    """
    cases = {"one": 1, "ten": 10, "one_percent": -(-images // 100)}
    groups = -(-images // together)
    drawn = groups if compared >= images else compared // together  # at least so many are whole
    return {
        name: detection(groups, drawn, -(-count // together))
        for name, count in cases.items()
        if count <= images
    }
