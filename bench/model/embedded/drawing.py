"""Images drawn by code: shapes, textures and strokes of 32 x 32 pixels, the world of the embedded vision model.

Every image has two colours apart from each other, and some noise. Numbers come from numpy's RandomState, whose stream
no version changes. A picture's coordinates run from -1 to 1, to the right and downwards.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np

SIZE = 32  # pixels a side
NOISE = 0.06  # standard deviation, of brightness between 0 and 1
CONTRAST = 0.35  # of the two colours, mean absolute difference at least
Array = np.ndarray
Strokes = tuple[tuple[float, float], ...]  # corners of a line

_Y, _X = np.meshgrid(*(2 * [(np.arange(SIZE) + 0.5) / SIZE * 2 - 1]), indexing="ij")
_EDGE = 2 / SIZE  # over which a boundary is blurred: one pixel


def _polygon(radius: Array, angle: Array, corners: int) -> Array:
    sector = 2 * np.pi / corners
    return radius * np.cos(angle % sector - sector / 2) / np.cos(sector / 2)


def _star(radius: Array, angle: Array) -> Array:
    return radius / (0.7 + 0.3 * np.cos(5 * angle))


def _bar(across: Array, along: Array) -> Array:
    return np.maximum(np.abs(across) - 0.25, np.abs(along) - 1)


# A shape is a function of radius and angle, x and y that is below 1 inside.
SHAPES: tuple[Callable[[Array, Array, Array, Array], Array], ...] = (
    lambda r, a, x, y: r,
    lambda r, a, x, y: 1 + (np.abs(r - 0.75) - 0.2),
    lambda r, a, x, y: np.maximum(np.abs(x), np.abs(y)) * 1.25,
    lambda r, a, x, y: _polygon(r, a, 3),
    lambda r, a, x, y: 1 + np.minimum(_bar(x, y), _bar(y, x)),
    lambda r, a, x, y: np.maximum(np.abs(x), np.abs(y) * 3),
    lambda r, a, x, y: _star(r, a),
    lambda r, a, x, y: np.maximum(r, 1.6 - np.hypot(x - 0.6, y)),
)
# A texture is a function of x and y, turned and moved, and of a noise field, with values from 0 to 1.
TEXTURES: tuple[Callable[[Array, Array, Array], Array], ...] = (
    lambda x, y, n: np.sin(9 * x) > 0,
    lambda x, y, n: np.sin(20 * x) > 0,
    lambda x, y, n: (np.sin(9 * x) > 0) ^ (np.sin(9 * y) > 0),
    lambda x, y, n: np.hypot(np.sin(7 * x), np.sin(7 * y)) < 0.5,
    lambda x, y, n: np.sin(14 * np.hypot(x, y)) > 0,
    lambda x, y, n: np.clip(0.5 + 0.5 * x, 0, 1),
    lambda x, y, n: n,
    lambda x, y, n: np.sin(12 * x + 3 * np.sin(6 * y)) > 0,
)


@functools.cache
def glyphs(seed: int, number: int, apart_from: tuple[Strokes, ...] = ()) -> tuple[Strokes, ...]:
    """Signs of three strokes in a row between points of a 3 x 3 grid; no two have the same strokes.

    Args:
        seed: draws them.
        number: of signs.
        apart_from: signs that are not to be drawn again.
    """
    random = np.random.RandomState(seed)
    points = list(itertools.product((-0.6, 0.0, 0.6), repeat=2))
    seen = {_lines(strokes) for strokes in apart_from}
    found: list[Strokes] = []
    while len(found) < number:
        strokes = tuple(points[index] for index in random.permutation(len(points))[:4])
        if _lines(strokes) not in seen:
            seen.add(_lines(strokes))
            found.append(strokes)
    return tuple(found)


def _lines(strokes: Strokes) -> frozenset[frozenset[tuple[float, float]]]:
    return frozenset(frozenset(ends) for ends in itertools.pairwise(strokes))


def shape(random: np.random.RandomState, number: int) -> Array:
    """One of SHAPES, of any size, turned and moved: its share of each pixel (SIZE, SIZE)."""
    x, y = _placed(random, np.pi, random.uniform(0.45, 0.75))
    inside = SHAPES[number](np.hypot(x, y), np.arctan2(y, x), x, y)
    return np.clip((1 - inside) / _EDGE + 0.5, 0, 1)


def texture(random: np.random.RandomState, number: int) -> Array:
    """One of TEXTURES, turned and moved (SIZE, SIZE)."""
    x, y = _placed(random, np.pi, 1.0)
    coarse = random.uniform(size=(SIZE // 4, SIZE // 4)).repeat(4, axis=0).repeat(4, axis=1)
    return TEXTURES[number](x, y, coarse).astype(float)


def sign(random: np.random.RandomState, strokes: Strokes) -> Array:
    """A sign, a little turned, moved, enlarged and bent, by a pen of any width (SIZE, SIZE)."""
    x, y = _placed(random, 0.3, random.uniform(0.8, 1.2))
    corners = np.array(strokes) + random.normal(0, 0.06, size=(len(strokes), 2))
    distance = np.full_like(x, np.inf)
    for start, end in itertools.pairwise(corners):
        along = end - start
        share = np.clip(((x - start[0]) * along[0] + (y - start[1]) * along[1]) / (along @ along), 0, 1)
        distance = np.minimum(distance, np.hypot(x - start[0] - share * along[0], y - start[1] - share * along[1]))
    return np.clip((random.uniform(0.06, 0.16) - distance) / _EDGE + 0.5, 0, 1)


def _placed(random: np.random.RandomState, turn: float, size: float) -> tuple[Array, Array]:
    """Coordinates of the pixels in a frame turned by at most `turn`, moved, and enlarged by `size`."""
    angle, (right, down) = random.uniform(-turn, turn), random.uniform(-0.2, 0.2, size=2)
    x, y = (_X - right) / size, (_Y - down) / size
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def coloured(random: np.random.RandomState, share: Array, contrast: float = CONTRAST) -> Array:
    """Bytes (SIZE, SIZE, 3): two colours mixed by the share of the first (SIZE, SIZE), with noise."""
    while np.abs(np.subtract(*(colours := random.uniform(size=(2, 3))))).mean() < contrast:
        pass
    pixels = share[..., None] * colours[0] + (1 - share[..., None]) * colours[1]
    return np.clip((pixels + random.normal(0, NOISE, size=pixels.shape)) * 255, 0, 255).round().astype(np.uint8)
