"""The place of each method in tables and legends, and its colour, marker and line in every figure.

A method without an entry in LOOKS comes after the others, by name, and has a look that follows from its name alone: a
new method needs no edit here.
"""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

# Solid, long dashes, dots, dash-dot, short dashes, dash-dot-dot; in points of the line's width.
LINES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.2)),
    (0, (1.2, 1.2)),
    (0, (7, 1.2, 1.2, 1.2)),
    (0, (2.5, 1)),
    (0, (4, 1, 1, 1, 1, 1)),
)


FILLS = ("full", "none", "left", "bottom", "right", "top")  # of markers, beside LINES


class Look(NamedTuple):
    """Colour, marker, line and the filled part of the marker, as matplotlib takes them."""

    color: str
    marker: Any
    line: Any
    fill: Any = FILLS[0]

    def variant(self, number: int) -> Look:
        """That of another row of the method."""
        return self._replace(line=LINES[number % len(LINES)], fill=FILLS[number % len(FILLS)])

    @property
    def point(self) -> dict[str, Any]:
        """Of a marker without a line."""
        return {"linestyle": "", "marker": self.marker, "fillstyle": self.fill, "color": self.color}


# References, random starts, those made from W, from inputs, from the gradient. Okabe and Ito's colours
# (https://jfly.uni-koeln.de/color/), then Tol's muted ones (https://sronpersonalpages.nl/~pault), distinguishable with
# any colour vision as far as so many can be; markers and lines differ for print without colour.
LOOKS = {
    "none": Look("#666666", "_", LINES[5]),
    "full_ft": Look("#000000", "s", LINES[0]),
    "hu": Look("#0072b2", "o", LINES[1]),
    "reversed": Look("#56b4e9", "v", LINES[2]),
    "orthogonal": Look("#999933", "d", LINES[5]),
    "asymmetry_b": Look("#e69f00", "<", LINES[0]),
    "asymmetry_a": Look("#f0e442", ">", LINES[1]),
    "pissa": Look("#882255", "p", LINES[2]),
    "milora": Look("#aa4499", "h", LINES[3]),
    "olora": Look("#661100", "H", LINES[4]),
    "mica": Look("#ddcc77", "*", LINES[0]),
    "corda": Look("#332288", "X", LINES[1]),
    "eva": Look("#117733", "8", LINES[2]),
    "lora_ga": Look("#d55e00", "^", LINES[3]),
    "lora_ga_peft": Look("#cc6677", (3, 0, 30), LINES[3]),
    "lora_one": Look("#44aa99", (4, 1, 0), LINES[4]),
    "lora_xs": Look("#009e73", "D", LINES[4]),
    "lora_sb": Look("#cc79a7", "P", LINES[5]),
}
# Of Tol's sets as well, none of them blue: what a method is compared with is LoRA.
OTHER_COLOURS = ("#994455", "#997700", "#ee99aa", "#eecc66", "#bbcc33", "#ee3377", "#aaaa00", "#762a83")
OTHER_MARKERS = ((6, 1, 0), (5, 1, 0), (5, 0, 36), (3, 1, 0), (8, 1, 0))  # stars of 6, 5, 3 and 8 rays; a pentagon


def order(method: str) -> tuple[int, str]:
    """Sorts methods as tables and legends show them, each before itself with a system ("hu+lora_pro")."""
    start = method.partition("+")[0]
    return list(LOOKS).index(start) if start in LOOKS else len(LOOKS), method


def look(method: str) -> Look:
    """The method's look, the same in every figure of every study."""
    number = zlib.crc32(method.encode())
    others = (OTHER_COLOURS, OTHER_MARKERS, LINES)
    return LOOKS.get(method) or Look(*(cycle[number % len(cycle)] for cycle in others))


def colour(method: str) -> str:
    """The method's colour."""
    return look(method).color


def marker(method: str) -> Any:
    """The method's marker."""
    return look(method).marker
