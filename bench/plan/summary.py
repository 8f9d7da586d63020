"""The overview of an experiment as text."""

from __future__ import annotations

from collections import defaultdict

from tabulate import tabulate

from bench.plan.overview import Overview, Refusal, Share, Stage

GROUPS_SHOWN = 4


def text(found: Overview) -> str:
    """The overview as a table, with a line for each refusal, note and estimate, and the command that starts it."""
    rows = [_cells(row, found.gpu) for row in (*found.stages, found.total)]
    aligned = ["left"] + ["right"] * (len(rows[0]) - 1)
    printed = tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True, colalign=aligned)
    lines = [f"{found.study}: {found.total.cells} cells, {found.total.runs} different runs", "", printed, ""]
    lines += [*_by_method(found), ""] if found.shares else []
    lines += [_refusal_line(refusal) for refusal in found.refusals]
    lines += [f"{note}: {count}" for name, note in _NOTES.items() if (count := getattr(found.total, name))]
    lines += [f"estimated {source}: {_count(count, 'run')}" for source, count in found.sources.items()]
    if found.gpu is not None and found.total.seconds is not None:
        hours = _hours(found.total.seconds / 3600 / found.num_gpus)
        lines.append(f"on {found.num_gpus} {found.gpu}, a run on each: {hours} h, if no run waits for another")
    if longest := [share for share in found.shares if share.longest is not None]:
        share = max(longest, key=lambda one: one.longest or 0.0)
        lines.append(f"the longest run: {_hours((share.longest or 0.0) / 3600)} h ({share.method} on {share.model})")
    if found.at_a_time is not None:
        lines.append(f"hours are of one run after another; here {found.at_a_time}")
    if any(source.startswith("from the model's size") for source in found.sources):
        lines.append(_BOUNDS)
    lines += [
        f"best rate at the edge: {edge}; {found.command} hydra.sweeper.rates.reserve=4 adds points"
        for edge in found.edges
    ]
    lines += ["", f"start: {found.command}"]
    return "\n".join([*lines, *([f"what fits: {found.fitting}"] if found.fitting else [])])


def _cells(row: Stage, gpu: str | None) -> dict[str, str]:
    counts = {name.replace("_", " "): f"{getattr(row, name):,}" for name in _COUNTS}
    return {"stage": row.name} | counts | _cost(row, gpu)


def _by_method(found: Overview) -> list[str]:
    """The table of models and methods, and what makes a run fit that does not."""
    rows = [
        {"model": share.model, "method": share.method, "runs": f"{share.runs:,}"} | _cost(share, found.gpu)
        for share in found.shares
    ]
    printed = tabulate(
        rows, headers="keys", tablefmt="pipe", disable_numparse=True, colalign=["left"] * 2 + ["right"] * 3
    )
    together: dict[tuple[str, str], list[str]] = defaultdict(list)
    for share in found.shares:
        if share.remedy is not None:
            together[share.model, share.remedy].append(share.method)
    lines = [printed]
    for (model, how), methods in together.items():
        fits = f"it fits with {how}" if how else "a smaller batch does not suffice"
        lines.append(f"too large for the memory of one {found.gpu}: {', '.join(methods)} on {model}; {fits}")
    return lines


def _cost(row: Stage | Share, gpu: str | None) -> dict[str, str]:
    unit = "hours" if gpu is None else "GPU hours"
    bound = "≥ " if isinstance(row, Stage) and row.unknown else ""
    return {
        unit: "–" if row.seconds is None else bound + _hours(row.seconds / 3600),
        "peak GiB": "–" if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.1f}",
    }


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _hours(hours: float) -> str:
    return f"{hours:.2g}" if hours < 10 else f"{hours:,.0f}"


_NOTES = {
    "failed": "failed before, and not started again; run.retry_failed=true does",
    "retried": "failed before, and started again",
    "begun": "begun before; resumed from the last checkpoint",
    "running": "running in another process; skipped",
    "recorded": "recorded without weights, as committed runs are; run again",
    "waiting": "waiting for a learning rate that an earlier stage chooses",
}
_BOUNDS = (
    "An estimate from the model's size counts every example as task.max_length tokens and every answer as the longest "
    "allowed, so it is mostly too high; records of finished runs replace it."
)
_COUNTS = ("cells", "runs", "done", "to_do", "failed", "recorded", "waiting", "refused")


def _refusal_line(refusal: Refusal) -> str:
    shown = "; ".join(refusal.cells[:GROUPS_SHOWN])
    more = f"; and {len(refusal.cells) - GROUPS_SHOWN} more" if len(refusal.cells) > GROUPS_SHOWN else ""
    return f"refused, {_count(len(refusal.cells), 'cell')}: {refusal.reason} ({shown}{more})"
