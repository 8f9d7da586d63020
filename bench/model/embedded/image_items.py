"""The items of the image tasks that need no file: scikit-learn's handwritten digits, and signs drawn by code."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from bench.model.embedded.drawing import coloured, glyphs, sign, texture
from bench.model.images import drawn

ITEM_SEED = 20260106
PRETRAINED_SIGNS = glyphs(1, 16)  # classes of pretraining
SIGNS = glyphs(2, 10, apart_from=PRETRAINED_SIGNS)  # those of glyphs_tiny
DIGITS = {"train": 897, "validation": 300, "test": 600}  # of scikit-learn's 1,797 images
DRAWN = {"train": 1200, "validation": 500, "test": 1000}
PAPER = 0.35  # share of the texture behind a sign
Item = dict[str, Any]


def _digits() -> dict[str, list[Item]]:
    """Alpaydin and Kaynak's digits of the UCI repository, 8 x 8 pixels of 17 grey levels, in splits by one seed."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = iter(np.random.RandomState(ITEM_SEED).permutation(len(data.target)))
    grey = np.rint(data.images * 255 / 16).astype(np.uint8)
    chosen = {split: [next(order) for _ in range(number)] for split, number in DIGITS.items()}
    return {
        split: [{"image": drawn(grey[index]), "label": int(data.target[index])} for index in indices]
        for split, indices in chosen.items()
    }


def _signs() -> dict[str, list[Item]]:
    """Ten signs that pretraining has not seen, on a ground of any texture; every split has a stream of its own."""
    splits: dict[str, list[Item]] = {}
    for stream, (split, number) in enumerate(DRAWN.items()):
        random = np.random.RandomState([ITEM_SEED, stream])
        splits[split] = []
        for _ in range(number):
            label = int(random.randint(len(SIGNS)))
            ground = PAPER * texture(random, int(random.randint(8)))
            share = np.maximum(sign(random, SIGNS[label]), ground)
            splits[split].append({"image": drawn(coloured(random, share)), "label": label})
    return splits


_MADE = {"digits": _digits, "glyphs_tiny": _signs}
NAMES = tuple(_MADE)


@functools.cache
def splits(name: str) -> dict[str, list[Item]]:
    """All items of an image task, by split: train, validation and test.

    Args:
        name: digits or glyphs_tiny.
    """
    return _MADE[name]()
