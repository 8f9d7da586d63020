"""Gradients and features over training: alignment with the full gradient, by layer, and the features' norms."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures.draw import (
    GREY,
    Line,
    band,
    finish,
    legend_height,
    lines,
    log_axis,
    over_seeds,
    panels,
    shade_of,
    spans_widely,
    styled,
)
from bench.report.read.load import Cell, natural
from bench.runs.record import ALIGNMENT, ALL_LAYERS, read_rows

COSINE, CAPTURED, CEILING = "cosine", "captured_energy", "noise_ceiling"
A_NORM, B_NORM = "Z_A_norm", "Z_B_norm"
ALIGNMENTS, NORMS = (COSINE, CAPTURED, CEILING), (A_NORM, B_NORM)
LABELLED = 30  # layers of a heatmap; of more only the blocks are labelled
ABREAST = 6


def read_measures(cells: Sequence[Cell]) -> pd.DataFrame:
    """Rows of alignment.jsonl that the figures show: per cell, step, layer and measure, mean and range over seeds.

    Of single layers only the cosine is kept.
    """
    columns = ["measure", "layer", "step", "value"]
    values = pd.concat(
        pd.DataFrame(read_rows(folder / ALIGNMENT), columns=columns).assign(place=place)
        for place, cell in enumerate(cells)
        for folder in cell.folders
    )
    shown = values["measure"].isin([*ALIGNMENTS, *NORMS]) & (values["layer"] == ALL_LAYERS)
    kept = values[(shown | (values["measure"] == COSINE)) & values["value"].notna()]
    return over_seeds(kept.astype({"step": int, "value": float}), cells, columns[:3])


def over_layers(measures: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Some measures of all layers as one vector: ALIGNMENTS, or the features' NORMS, which are means over layers."""
    wanted = measures["measure"].isin(names) & (measures["layer"] == ALL_LAYERS)
    return measures[wanted].drop(columns="layer").reset_index(drop=True)


@styled()
def alignment(cells: Sequence[Cell], data: pd.DataFrame) -> Figure | None:
    """Cosine of induced and full gradient, and captured energy, against step; all adapted layers as one vector.

    The dotted line is the noise ceiling: the cosine of two independent estimates of the full gradient.
    """
    if not (shown := lines(data, cells)):
        return None
    height = 2.7 + legend_height([*(line.title for line in shown), "cos(G, G′)"])
    figure, ((left, right),) = panels(1, 2, height, sharey=True)
    _draw_panels(shown, {COSINE: left, CAPTURED: right})
    ceiling = data[data["measure"] == CEILING].groupby("step")["mean"].mean()
    if len(ceiling):
        left.plot(ceiling.index, ceiling, ":", color=GREY, label="cos(G, G′)")
    low = min(0.0, float(data.loc[data["measure"] == COSINE, "low"].min()))
    left.set(xlabel="step", ylabel="cosine with the full gradient", ylim=(1.05 * low, 1.05))
    right.set(xlabel="step", ylabel="share of ‖G‖² within reach")
    right.tick_params(labelleft=True)
    return finish(figure, cells, "bands: range over seeds")


def layers_data(cells: Sequence[Cell], measures: pd.DataFrame) -> pd.DataFrame:
    """The cosine of each layer, in the network's order; mean over seeds."""
    own = measures[(measures["measure"] == COSINE) & (measures["layer"] != ALL_LAYERS)]
    listed = [layer.name for cell in cells for layer in cell.runs[0].initialization.layers]
    places = {name: place for place, name in enumerate(dict.fromkeys([*listed, *sorted(own["layer"], key=natural)]))}
    parts = [line.rows.sort_values("layer", key=lambda names: names.map(places), kind="stable")
             for line in lines(own, cells)]  # fmt: skip
    return pd.concat(parts or [own])["method cell layer step mean n".split()].reset_index(drop=True)


@styled()
def layers(cells: Sequence[Cell], data: pd.DataFrame) -> Figure | None:
    """The cosine of each layer at each step, a panel a cell, all on one scale of colour; the mean over seeds."""
    if not (shown := lines(data, cells)):
        return None
    known, steps = list(dict.fromkeys(data["layer"])), sorted(set(data["step"]))
    names = list(short_names(known).values())
    rows = math.ceil(len(shown) / ABREAST)
    labels = names if rows == 1 and len(names) <= LABELLED else _blocks(names)
    panel = max(1.6, 0.115 * len(names)) if labels is names else 1.7
    height = 0.55 + rows * (panel + 0.3)
    figure, axes = panels(rows, math.ceil(len(shown) / rows), height, sharex=True, sharey=True)
    low = min(0.0, float(data["mean"].min()))
    for axis, line in zip(axes.flat, shown, strict=False):
        own = line.rows.pivot(index="layer", columns="step", values="mean")
        image = axis.pcolormesh(own.reindex(known, columns=steps).to_numpy(), vmin=low, vmax=1.0, cmap="viridis")
        axis.set_title(line.title.replace(", ", "\n"), fontsize=7)
        axis.grid(visible=False)
    for axis in axes.flat[len(shown) :]:
        axis.remove()
    first = axes[0][0]
    first.set_ylim(len(names), 0)
    first.set_yticks([place + 0.5 for place, label in enumerate(labels) if label], [label for label in labels if label])
    kept = sorted({0, len(steps) - 1} | ({len(steps) // 2} if len(steps) > 4 else set()))
    first.set_xticks([place + 0.5 for place in kept], [f"{steps[place]:,}" for place in kept])
    inside = list(dict.fromkeys(name.rpartition(" ")[2] for name in names))
    order = f" (layers of a block, from above: {', '.join(inside)})" if labels is not names and len(inside) < 9 else ""
    figure.supxlabel(f"step{order}", fontsize=8)
    figure.supylabel("layer" if labels is names else "block", fontsize=8)
    figure.colorbar(image, ax=figure.axes, label="cosine with the full gradient", aspect=40, pad=0.01, fraction=0.03)
    return finish(figure, cells, "mean over seeds", legend=False)


@styled()
def features(cells: Sequence[Cell], data: pd.DataFrame) -> Figure | None:
    """‖Ax‖ and ‖sBAx‖ against step, means over the probe's tokens and the layers; on a log axis a 0 is not drawn."""
    if not (shown := lines(data, cells)):
        return None
    figure, ((left, right),) = panels(1, 2, 2.7 + legend_height(line.title for line in shown))
    _draw_panels(shown, {A_NORM: left, B_NORM: right})
    for axis, measure, label in ((left, A_NORM, "‖A x‖"), (right, B_NORM, "‖s B A x‖")):
        axis.set(xlabel="step", ylabel=f"mean {label}")
        if spans_widely(data.loc[data["measure"] == measure, "mean"]):
            log_axis(axis, "y")
        else:
            axis.set_ylim(bottom=0)
    return finish(figure, cells, "bands: range over seeds", "mean over tokens and layers")


def _draw_panels(shown: Sequence[Line], axes: Mapping[str, Axes]) -> None:
    for line in shown:
        for measure, axis in axes.items():
            if len(rows := line.of("measure", measure)):
                band(axis, rows, "step", line, shade_of(shown), marked=True)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """ "3 q_proj" for model.layers.3.self_attn.q_proj: the block, and the end of the name that tells layers apart.

    Where the blocks of several stacks are adapted (encoder and decoder), the stack comes first.
    """
    parts = {name: re.fullmatch(r"(.*?)\.?\b(\d+)\.(.*)", name) for name in names}
    stacks = {match[1] for match in parts.values() if match}
    tails = {match[3] if match else name for name, match in parts.items()}
    ends = Counter(end for tail in tails for end in [*_ends(tail), tail])
    short = {tail: next((end for end in _ends(tail) if ends[end] == 1), tail) for tail in tails}
    named = {}
    for name, match in parts.items():
        stack = f"{match[1].split('.')[0]} " if match and len(stacks) > 1 else ""
        named[name] = f"{stack}{match[2]} {short[match[3]]}" if match else short[name]
    return named if len(set(named.values())) == len(named) else {name: name for name in names}


def _ends(name: str) -> list[str]:
    """The ends of a dotted name, the shortest first, without the whole: c and b.c of a.b.c."""
    words = name.split(".")
    return [".".join(words[-length:]) for length in range(1, len(words))]


def _blocks(names: Sequence[str]) -> list[str]:
    """The block's name at its first layer, at no more than 12 of them; "" elsewhere."""
    heads = [name.rpartition(" ")[0] or name for name in names]
    starts = [place for place, head in enumerate(heads) if place == 0 or head != heads[place - 1]]
    kept = set(starts[:: math.ceil(len(starts) / 12)])
    return [head if place in kept else "" for place, head in enumerate(heads)]
