"""How each method looks, in every figure and page of every study: its colour, marker and line."""

from __future__ import annotations

import zlib
from typing import Any

# Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), then Tol's muted one (https://sronpersonalpages.nl/~pault),
# distinguishable with any colour vision as far as so many can be; markers and lines differ for print without colour.
COLOURS = {
    "none": "#666666",
    "full_ft": "#000000",
    "hu": "#0072b2",
    "reversed": "#56b4e9",
    "lora_ga": "#d55e00",
    "lora_xs": "#009e73",
    "lora_sb": "#cc79a7",
    "asymmetry_b": "#e69f00",
    "asymmetry_a": "#f0e442",
    "pissa": "#882255",
    "milora": "#aa4499",
    "olora": "#661100",
    "orthogonal": "#999933",
    "mica": "#ddcc77",
    "corda": "#332288",
    "eva": "#117733",
    "lora_ga_peft": "#cc6677",
    "lora_one": "#44aa99",
}
OTHERS = ("#88ccee", "#6699cc", "#004488", "#994455", "#997700", "#ee99aa", "#eecc66", "#bbcc33")
MARKERS: dict[str, Any] = {
    "none": "_",
    "full_ft": "s",
    "hu": "o",
    "reversed": "v",
    "lora_ga": "^",
    "lora_xs": "D",
    "lora_sb": "P",
    "asymmetry_b": "<",
    "asymmetry_a": ">",
    "pissa": "p",
    "milora": "h",
    "olora": "H",
    "orthogonal": "d",
    "mica": "*",
    "corda": "X",
    "eva": "8",
    "lora_ga_peft": (3, 0, 30),
    "lora_one": (4, 1, 0),
}
OTHER_MARKER = (6, 1, 0)
# Solid, long dashes, dots, dash-dot, short dashes, dash-dot-dot; in points of the line's width.
LINES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.2)),
    (0, (1.2, 1.2)),
    (0, (7, 1.2, 1.2, 1.2)),
    (0, (2.5, 1)),
    (0, (4, 1, 1, 1, 1, 1)),
)


def colour(method: str) -> str:
    """The method's colour; one that is not in COLOURS gets a fixed one by its name."""
    return COLOURS.get(method) or OTHERS[zlib.crc32(method.encode()) % len(OTHERS)]


def marker(method: str) -> Any:
    """The method's marker, as matplotlib takes it."""
    return MARKERS.get(method, OTHER_MARKER)


def line(method: str) -> Any:
    """The method's line where a figure has one line a method; trained methods next to each other differ."""
    known = list(COLOURS)
    place = known.index(method) - 1 if method in COLOURS else zlib.crc32(method.encode())
    return LINES[place % len(LINES)]
