"""Renders the page's template: facts, tables, figures and runs of one study."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import itables
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from bench.report.figures.choice import KINDS
from bench.report.page.runs import STATUSES, page_runs
from bench.report.read.load import Study
from bench.report.tables.render import DASH
from bench.runs.record_parts import Environment as RunEnvironment

PAGE = "index.html"
PageTable = tuple[str, pd.DataFrame, list[str]]  # title, table, and the notes below it
_LEADING_NUMBER = re.compile(r"[*<>≤≥~±\s]*([+−-]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[+-]?\d+)?)(?![\w.])")


def write_page(
    study: Study, tables: Sequence[PageTable], figures: Sequence[Path], folder: Path, note: str = ""
) -> Path:
    """Writes folder/index.html; equal study, tables and figures give equal bytes.

    Args:
        study: gives the facts at the top and the list of runs.
        tables: in their order. ** in a cell or note makes bold, ` makes code, as in Markdown.
        figures: PNG files. PDF and CSV files of the same name inside `folder` are linked to.
        folder: where the page is written.
        note: which figures are left out.

    Returns:
        The page's path.
    """
    runs = page_runs(study)
    environment = Environment(loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"marked": _marked, "text": _text, "sort_key": _sort_key}
    page = environment.get_template("page.html").render(
        study=study,
        facts=_facts(study, runs),
        statuses=Counter(run.status for run in runs),
        tables=tables,
        figures=[_figure(path, folder) for path in figures],
        note=note,
        runs=runs,
        config_text=lambda config: json.dumps(config, indent=1, ensure_ascii=False),
        dash=DASH,
        script=_inline(Path(itables.options.dt_bundle).read_text(encoding="utf-8")),
        style=Markup(Path(itables.options.dt_bundle).with_suffix(".css").read_text(encoding="utf-8")),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PAGE
    path.write_bytes(page.encode("utf-8", "replace"))  # a lone surrogate in a name must not cost the page
    return path


def _inline(script: str) -> Markup:
    """A script that is safe inside <script> (https://html.spec.whatwg.org/#restrictions-for-contents-of-script-elements)."""
    return Markup(re.sub("<(?=!--|/?script)", r"\\x3C", script, flags=re.IGNORECASE))


def _marked(text: str) -> Markup:
    """Markdown's **bold** and `code` as markup, all else escaped."""
    bold = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(escape(text)))
    return Markup(re.sub("`(.+?)`", r"<code>\1</code>", bold))


def _text(value: Any) -> str:
    """The text of a cell; a dash for what is missing."""
    if pd.isna(value) or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _sort_key(text: str) -> str:
    """What DataTables sorts a cell by: 86.2 for "86.2 [72.5, 99.8]", "" for a dash, 4 digits for numbers in words."""
    if text == DASH:
        return ""
    if number := _LEADING_NUMBER.match(text):
        return number[1].replace(",", "").replace("−", "-")
    return re.sub(r"\d+", lambda digits: digits[0].zfill(4), text)


def _figure(path: Path, folder: Path) -> dict[str, Any]:
    """Caption, content in base64, and the links to the other formats beside it."""
    kind, _, place = path.stem.partition("-")
    caption = KINDS.get(kind, path.stem.replace("_", " "))
    beside = {"PDF": path.with_suffix(".pdf"), "data (CSV)": path.with_suffix(".csv")}
    return {
        "caption": f"{caption} ({place.replace('-', ', ', 1)})" if place and kind in KINDS else caption,
        "content": base64.b64encode(path.read_bytes()).decode(),
        "links": {
            name: other.relative_to(folder).as_posix()
            for name, other in beside.items()
            if other.is_relative_to(folder) and other.is_file()
        },
    }


def _facts(study: Study, runs: Sequence[Any]) -> dict[str, str]:
    """What was run on what: names and texts of a description list, `code` marked as in Markdown."""
    counts = Counter(run.status for run in runs)
    experiment = study.plan.experiment if study.plan else None
    facts = {
        "Experiment": f"`python -m bench.run -m +experiments={experiment}`" if experiment else "",
        "This page": f"`python -m bench.report {study.name}`",
        "Tasks": ", ".join(sorted({run.task for run in runs} - {DASH})),
        "Models": ", ".join(sorted({run.model for run in runs} - {DASH})),
        "Methods": ", ".join(dict.fromkeys(run.label for run in runs if run.label != DASH)),
        "Seeds": ", ".join(map(str, sorted({run.seed for run in runs if run.seed is not None}))),
        "Stages": ", ".join(study.stages) if len(study.stages) > 1 else "",
        "Runs": ", ".join(f"{counts[status]:,} {status}" for status in STATUSES if counts[status]),
        "Stack": "; ".join(_counted(_stack(record.environment) for _, record in study.members)),
        "Code": "; ".join(sorted({_code(record.environment) for _, record in study.members} - {""})),
    }
    return {name: text for name, text in facts.items() if text}


def _counted(texts: Any) -> list[str]:
    """Each text once, with its number of runs where there are several texts."""
    counts = Counter(texts)
    return [f"{text} ({count:,} runs)" if len(counts) > 1 else text for text, count in sorted(counts.items())]


def _stack(environment: RunEnvironment) -> str:
    """Software and hardware that can change a number."""
    versions, hardware = environment.versions, environment.hardware
    software = [f"{name} {versions[name]}" for name in ("torch", "transformers", "peft") if versions.get(name)]
    threads = f"threads: {hardware.num_threads}" if hardware.num_threads else ""
    return ", ".join(str(part) for part in (*software, hardware.gpu or hardware.cpu, threads) if part)


def _code(environment: RunEnvironment) -> str:
    """Version and commit of the suite."""
    code = environment.code
    revision = f", commit {code.revision[:12]}" if code.revision else ""
    return f"{code.version or ''}{revision}{' with changes' if code.dirty else ''}"
