"""Tables of text as Markdown and LaTeX; numbers with their intervals as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean, stdev

import pandas as pd

from bench.report.judge.metrics import Scale
from bench.report.judge.statistics import Estimate

DASH = "–"
DAGGER = "†"
MINUS = "−"
ERRORS = INTERVAL, SD = "interval", "sd"  # what stands behind a mean in LaTeX
FLOATS = "%.12g"  # in a CSV: the digits that are the same on every processor


_LATEX = str.maketrans(
    {character: rf"\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", "±": r"$\pm$"}
    | {DASH: "--", MINUS: "$-$", DAGGER: r"\textdagger{}", "α": r"$\alpha$", "≤": r"$\leq$"}
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_LINK = re.compile(r"\]\(")


def interval_text(found: Estimate | None, scale: Scale) -> str:
    """'50.0 [40.0, 60.0]'; without the brackets where no interval is known, a dash where there is nothing."""
    if found is None:
        return DASH
    if found.low is None or found.high is None:
        return scale.text(found.mean)
    return f"{scale.text(found.mean)} [{scale.text(found.low)}, {scale.text(found.high)}]"


def deviation_text(values: Sequence[float], scale: Scale) -> str:
    """'50.0 ± 4.0', mean and standard deviation (n - 1) of runs; the mean alone of a single one."""
    if len(values) < 2:
        return scale.text(values[0]) if values else DASH
    return f"{scale.text(fmean(values))} ± {scale.text(stdev(values))}"


def p_text(p: float | None) -> str:
    """A p-value to three decimals, or <0.001."""
    if p is None:
        return DASH
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def bold(texts: Sequence[str], best: int | None) -> list[str]:
    """The texts of a column, the best of them between **."""
    return [f"**{text}**" if index == best else text for index, text in enumerate(texts)]


def prose(text: str) -> str:
    """A text from records as a line of Markdown: no tag, no link, no second line, nothing that moves a terminal."""
    return _LINK.sub(r"]\(", _TAG.sub("&lt;", _CONTROL.sub(" ", text)))


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table, first column left-aligned, the others right-aligned; cells are escaped."""
    left = ("left",) + ("right",) * (table.shape[1] - 1)
    table = table.map(_cell)
    table.columns = [_cell(name) for name in table.columns]
    return table.to_markdown(index=False, colalign=left, disable_numparse=True)


def latex(table: pd.DataFrame, caption: str, label: str) -> str:
    """A LaTeX float of a booktabs table, which a paper's preamble needs; Markdown's ** becomes \\textbf.

    Args:
        table: of texts.
        caption: as text.
        label: made into one of letters, digits, colons and hyphens.
    """
    escaped = table.map(_latex_text)
    escaped.columns = [_latex_text(name) for name in table.columns]
    body = escaped.to_latex(index=False, column_format="l" + "r" * (table.shape[1] - 1), escape=False)
    named = re.sub("[^A-Za-z0-9:]+", "-", label).strip("-")
    head = rf"\caption{{{_latex_text(caption)}}}" + "\n" + rf"\label{{{named}}}"
    return "\\begin{table}[t]\n\\centering\n" + f"{head}\n{body}" + "\\end{table}\n"


def comment(text: str) -> str:
    """A LaTeX comment of one line."""
    return f"% {_CONTROL.sub(' ', text)}\n"


def _cell(text: str) -> str:
    return prose(text).replace("|", r"\|")


def _latex_text(text: str) -> str:
    text = _CONTROL.sub(" ", text)
    if text.startswith("**"):
        number, _, behind = text.removeprefix("**").partition("**")
        return rf"\textbf{{{_latex_text(number)}}}{_latex_text(behind)}"
    return text.translate(_LATEX)
