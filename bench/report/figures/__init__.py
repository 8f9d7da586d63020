"""The figures of a study, from its records alone: PNG, PDF, and the numbers of each beside it as CSV."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from bench.report.curves import read_curves, target_loss
from bench.report.figures import cost, gradient, loss, rates
from bench.report.figures.cost import score_against_parameters
from bench.report.figures.draw import styled
from bench.report.figures.gradient import alignment
from bench.report.figures.loss import convergence
from bench.report.load import Cell, Study
from bench.report.palette import COLOURS, colour
from bench.study import SELECT

__all__ = ["COLOURS", "alignment", "colour", "convergence", "score_against_parameters", "write_figures"]

COLOURS_KEPT = 256  # in a PNG: a third of the bytes
Drawn = tuple[str, Figure | None, pd.DataFrame]


def write_figures(study: Study, folder: Path) -> list[Path]:
    """Writes every figure that the records have data for, each as NAME.png, NAME.pdf and NAME.csv; returns the PNGs.

    Of the selection stage only the learning rates are drawn; all else is of the study's own stage.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    by_place = rates.selections_by_place(study)
    parts = study.parts
    places = sorted({*parts, *by_place})
    for place in places:
        of_cells = _of_cells(parts[place].cells) if place in parts and study.stage != SELECT else ()
        selections = by_place.get(place, [])
        data = rates.rates_data(selections)
        drawn = chain(of_cells, [("rates", rates.rates(selections, place, data), data)])
        for name, figure, numbers in drawn:
            if figure is None:
                continue
            stem = "-".join([name, *place]).replace("/", "-") if len(places) > 1 else name
            written.append(_save(figure, numbers, folder / stem))
    return written


def _of_cells(cells: list[Cell]) -> Iterator[Drawn]:
    """The figures of one task and model; every file is read once."""
    curves = read_curves(cells)
    losses = loss.convergence_data(cells, curves)
    yield "convergence", loss.convergence(cells, losses), losses
    if aim := target_loss(cells, curves):
        reached = loss.target_data(cells, curves, aim)
        yield "target", loss.target(cells, reached, aim), reached
    measures = gradient.read_measures(cells)
    aligned = gradient.alignment_data(measures)
    yield "alignment", gradient.alignment(cells, aligned), aligned
    by_layer = gradient.layers_data(cells, measures)
    yield "layers", gradient.layers(cells, by_layer), by_layer
    norms = gradient.features_data(measures)
    yield "features", gradient.features(cells, norms), norms
    scored = cost.score_data(cells)
    yield "score", cost.score_against_parameters(cells, scored), scored
    costs = cost.cost_data(cells)
    yield "cost", cost.cost(cells, costs), costs


@styled()
def _save(figure: Figure, data: pd.DataFrame, stem: Path) -> Path:
    """Equal figures give equal bytes: no dates."""
    png = stem.parent / f"{stem.name}.png"
    figure.savefig(png, metadata={"Software": None})
    Image.open(png).convert("RGB").quantize(COLOURS_KEPT, dither=Image.Dither.NONE).save(png, optimize=True)
    figure.savefig(stem.parent / f"{stem.name}.pdf", metadata={"CreationDate": None})
    plt.close(figure)
    data.to_csv(stem.parent / f"{stem.name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    return png
