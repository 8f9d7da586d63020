"""Best learning rate against the largest eigenvalue at step 0, preconditioned and plain; one point a group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bench.report.figures.draw import GREY, bottom_legend, legend_height, log_axis, looks_of, panels, styled
from bench.report.figures.rates import variant_of
from bench.report.read.curvature import RateAndCurvature, constant

FEWEST = 2  # groups that are worth a figure


def curvature_data(points: Sequence[RateAndCurvature]) -> pd.DataFrame:
    """One row a group: its best rate, both eigenvalues, and c / λ."""
    selections = [point.selection for point in points]
    return pd.DataFrame(
        {
            "method": point.selection.method,
            "cell": ", ".join((point.selection.label, *variant_of(point.selection, selections))),
            "variant": ", ".join(variant_of(point.selection, selections)),
            "best_rate": point.rate,
            "preconditioned": point.preconditioned,
            "plain": point.plain,
            "predicted": constant() / point.preconditioned,
        }
        for point in points
    )


@styled()
def curvature(place: tuple[str, str], data: pd.DataFrame) -> Figure | None:
    """Two panels of logarithmic axes; the line of the first is c / λ with c as it was fixed before.

    Args:
        place: the names of task and model.
        data: of `curvature_data`.
    """
    if len(data) < FEWEST:
        return None
    figure, ((left, right),) = panels(1, 2, 3.2 + legend_height(data["cell"]), sharey=True)
    looks = looks_of(list(data["method"]), list(data["variant"]))
    for axis, name in ((left, "preconditioned"), (right, "plain")):
        for look, cell, x, rate in zip(looks, data["cell"], data[name], data["best_rate"], strict=True):
            axis.plot(x, rate, **look.point, label=cell)
        log_axis(axis, "x")
        axis.set_xlabel("largest eigenvalue, " + ("as Adam scales it" if name == "preconditioned" else "plain"))
    log_axis(left, "y")
    left.set_ylabel("best learning rate")
    ends = np.array([data["preconditioned"].min(), data["preconditioned"].max()])
    left.plot(ends, constant() / ends, color=GREY, label=f"{constant():g} / λ")
    bottom_legend(figure, *left.get_legend_handles_labels())
    figure.suptitle(f"{place[0]}, {place[1]}; one point a group; validation split")
    return figure
