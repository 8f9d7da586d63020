"""The page's file: template, style, script and data put together."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from bench.report.page.data import runs_data
from bench.report.page.figures import figure
from bench.report.page.runs import DASH, STATUSES, PageRun, page_runs
from bench.report.read.load import Study

PAGE = "index.html"
_SCRIPTS = ("elements.js", "sorting.js", "tables.js", "runs.js", "filters.js")

PageTable = tuple[str, pd.DataFrame, list[str]]  # title, what it shows, the notes under it


def write_page(
    study: Study, tables: Sequence[PageTable], figures: Sequence[Path], folder: Path, note: str = ""
) -> Path:
    """Writes folder/index.html; the same study, tables and figures give the same bytes.

    Args:
        tables: in their order. In a cell, ** around a text make it bold, as in Markdown.
        figures: PNG files; of others in the list nothing is shown. A .pdf and .csv of the same name are linked to.
        note: of what is left out of the figures, `code` marked as in Markdown.
    """
    runs = page_runs(study)
    style = _asset("page.css")
    script = "\n".join(map(_asset, _SCRIPTS))
    page = Template(_asset("page.html")).substitute(
        name=html.escape(study.name),
        policy=_policy(style, script),
        style=style,
        script=script,
        facts=_facts(study, runs),
        remarks=_remarks(study, runs),
        figures="\n".join(figure(path, folder) for path in figures if path.suffix == ".png"),
        figures_note=_note(note),
        data=_json({"tables": [_table(*table) for table in tables], **runs_data(study, runs)}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PAGE
    path.write_bytes(page.encode("utf-8", "replace"))  # a lone surrogate in a name must not cost the page
    return path


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing from anywhere, and of what stands in the page this style and this script only."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _json(data: Any) -> str:
    """JSON that no HTML parser takes for markup, whatever its strings hold."""
    text = json.dumps(_finite(data), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    """The same with NaN and infinities, for which JSON has no numbers, as text."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _table(title: str, table: pd.DataFrame, notes: Sequence[str]) -> dict[str, Any]:
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False, name=None)]
    return {"title": title, "columns": [str(name) for name in table.columns], "rows": rows, "notes": list(notes)}


def _cell(value: Any) -> str:
    """As text; missing is a dash."""
    if pd.isna(value):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _facts(study: Study, runs: Sequence[PageRun]) -> str:
    """What was run on what, as the pairs of a description list."""
    experiment = study.plan.experiment if study.plan else None
    counts = Counter(run.status for run in runs)
    seeds = sorted({run.seed for run in runs if run.seed is not None})
    facts = {
        "Experiment": _code(f"python -m bench.run -m +experiments={experiment}") if experiment else "",
        "This page": _code(f"python -m bench.report {study.name}"),
        "Tasks": _names(run.task for run in runs),
        "Models": _names(run.model for run in runs),
        "Methods": html.escape(", ".join(dict.fromkeys(run.label for run in runs if run.label != DASH))),
        "Seeds": ", ".join(map(str, seeds)),
        "Stages": html.escape(", ".join(study.stages)) if len(study.stages) > 1 else "",
        "Runs": ", ".join(f"{counts[status]:,} {status}" for status in STATUSES if counts[status]),
        "Stack": "<br>".join(map(html.escape, _stacks(study))),
        "Code": html.escape("; ".join(_codes(study))),
    }
    return "\n".join(f"<div><dt>{name}</dt><dd>{fact}</dd></div>" for name, fact in facts.items() if fact)


def _note(text: str) -> str:
    marked = re.sub("`(.+?)`", r"<code>\1</code>", html.escape(text))
    return f'<p class="note">{marked}</p>\n' if text else ""


def _code(command: str) -> str:
    return f"<code>{html.escape(command)}</code>"


def _names(found: Any) -> str:
    return html.escape(", ".join(sorted(set(found) - {DASH})))


def _stacks(study: Study) -> list[str]:
    """Software and hardware that can move a number, each with its runs where there are several."""
    described: Counter[str] = Counter()
    for _, record in study.members:
        versions, hardware = record.environment.versions, record.environment.hardware
        software = [f"{name} {versions[name]}" for name in ("torch", "transformers", "peft") if versions.get(name)]
        threads = f"threads: {hardware.num_threads}" if hardware.num_threads else None
        parts = [*software, hardware.gpu or hardware.cpu, threads]
        described[", ".join(str(part) for part in parts if part)] += 1
    if len(described) == 1:
        return list(described)
    return [f"{text} ({count:,} runs)" for text, count in sorted(described.items())]


def _codes(study: Study) -> list[str]:
    """Versions and commits of the suite."""
    found = set()
    for _, record in study.members:
        code = record.environment.code
        if code.version:
            revision = f", commit {code.revision[:12]}" if code.revision else ""
            found.add(f"{code.version}{revision}{' with changes' if code.dirty else ''}")
    return sorted(found)


def _remarks(study: Study, runs: Sequence[PageRun]) -> str:
    """What must not be overlooked."""
    counts = Counter(run.status for run in runs)
    texts = {
        "failed": "Failed, not counted in the tables",
        "unreadable": "With a record that cannot be read, not counted",
        "missing": "Planned and not done",
        "waiting": "Waiting for the choice of their learning rate",
        "refused": "Refused, for the reason given in the list of runs",
    }
    found = [
        f"<p>{text}: {counts[status]:,} of {len(runs):,} runs.</p>" for status, text in texts.items() if counts[status]
    ]
    return "\n".join(found)
