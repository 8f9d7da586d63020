"""The papers' claims as questions, answered from records: `python -m bench.report.claims`.

experiments/_claims.yaml has the claims; results/claims.md and claims.csv get a row each: paper, claim, our answer, its
interval, n, and the command that makes the records. The questions themselves are in bench.report.papers.questions.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from bench.process import command
from bench.process.files import write_whole
from bench.report.papers.questions import KINDS, Finding, NotRunError
from bench.report.read.load import ReportError, load_study
from bench.report.tables.render import DASH, prose
from bench.study.folders import experiments_folder
from bench.study.plan_file import run_folders

CLAIMS = "_claims.yaml"
NOT_RUN = "not run yet"
_NO_ANSWER = "no answer"

_NOTE = (
    "Yes or no: the whole interval lies on one side; else not settled. Intervals of scores are 95 %, paired by seed "
    "and by the items that both methods answered; of steps over seeds; of learning rates what the grid resolves. Every "
    "method is at the best learning rate of its own grid, chosen on the validation split."
)


@dataclass(frozen=True)
class Claim:
    """What a paper says, and what decides whether records agree.

    Attributes:
        source: where the paper says it.
        study: whose records answer.
        kind: a function of bench.report.papers.questions; `arguments` are its own.
    """

    id: str
    paper: str
    claim: str
    source: str
    study: str
    kind: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """Makes the records that answer."""
        return f"python -m bench.run -m +experiments={self.study}"


@dataclass(frozen=True)
class Answer:
    """What the records say to a claim.

    Attributes:
        text: yes, no, not settled, not run yet, or no answer where the study cannot be reported.
        low, high: of the estimate; see bench.report.papers.questions.Finding.
        command: makes the records.
    """

    claim: Claim
    text: str
    details: str
    estimate: float | None
    low: float | None
    high: float | None
    unit: str
    n: int | None
    command: str

    @property
    def interval(self) -> str:
        """Estimate, bounds and unit in print."""
        if self.estimate is None:
            return DASH
        sign = "+" if self.unit in ("points", "in slope", "") else ""
        bounds = "" if self.low is None or self.high is None else f" [{self.low:{sign}.3g}, {self.high:{sign}.3g}]"
        return f"{self.estimate:{sign}.3g}{bounds} {self.unit}".rstrip()


def read_claims(path: Path) -> tuple[Claim, ...]:
    """The claims of a file, in its order.

    Raises:
        ReportError: not a list of claims, a missing field, an unknown kind or argument, or an id given twice.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ReportError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(entries, list):
        raise ReportError(f"{path}: not a list of claims; each starts with '- id: NAME'")
    claims = tuple(_claim(path, place, entry) for place, entry in enumerate(entries, 1))
    ids = [claim.id for claim in claims]
    if twice := [one for one in ids if ids.count(one) > 1]:
        raise ReportError(f"{path}: id {twice[0]!r} is given twice; rename one")
    return claims


def answer(claim: Claim, results_dir: Path) -> Answer:
    """What the records below a results folder say; NOT_RUN where there are none that the question needs."""
    if not run_folders(results_dir / claim.study):
        return _without(claim, NOT_RUN, "")
    try:
        found: Finding = KINDS[claim.kind](load_study(results_dir, claim.study), **claim.arguments)
    except NotRunError as error:
        return _without(claim, NOT_RUN, str(error))
    except ReportError as error:
        return _without(claim, _NO_ANSWER, str(error))
    numbers = (found.estimate, found.low, found.high, found.unit, found.n)
    return Answer(claim, found.text, found.details, *numbers, claim.command)


def claims_table(answers: Sequence[Answer]) -> str:
    """One Markdown table, a claim a row."""
    rows = [
        {
            "paper": one.claim.paper,
            "claim": one.claim.claim,
            "our answer": f"**{one.text}**" + (f": {prose(one.details)}" if one.details else ""),
            "interval": one.interval,
            "n": DASH if one.n is None else str(one.n),
            "command": f"`{one.command}`",
        }
        for one in answers
    ]
    return f"{pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)}\n\n{_NOTE}\n"


def write_claims(answers: Sequence[Answer], results_dir: Path) -> str:
    """Writes claims.md and claims.csv (numbers unrounded) into a results folder; returns the Markdown."""
    results_dir.mkdir(parents=True, exist_ok=True)
    markdown = claims_table(answers)
    rows = [
        {
            "id": one.claim.id,
            "paper": one.claim.paper,
            "claim": one.claim.claim,
            "source": one.claim.source,
            "study": one.claim.study,
            "kind": one.claim.kind,
            "answer": one.text,
            "details": one.details,
            "estimate": one.estimate,
            "low": one.low,
            "high": one.high,
            "unit": one.unit,
            "n": None if one.n is None else str(one.n),
            "command": one.command,
        }
        for one in answers
    ]
    write_whole(results_dir / "claims.md", markdown)
    write_whole(results_dir / "claims.csv", pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
    return markdown


def _without(claim: Claim, text: str, details: str) -> Answer:
    return Answer(claim, text, details, None, None, None, "", None, claim.command)


def _claim(path: Path, place: int, entry: Any) -> Claim:
    texts = ("id", "paper", "claim", "source", "study", "kind")
    where = f"{path}: claim {place}"
    if not isinstance(entry, dict):
        raise ReportError(f"{where}: {entry!r} is no claim; it starts with '- id: NAME'")
    if missing := [name for name in texts if not isinstance(entry.get(name), str) or not entry[name]]:
        raise ReportError(f"{where} ({entry.get('id', 'no id')}): no {', '.join(missing)}")
    where = f"{path}: claim {entry['id']}"
    if entry["kind"] not in KINDS:
        raise ReportError(f"{where}: unknown kind {entry['kind']!r}; known: {', '.join(KINDS)}")
    arguments = {name: value for name, value in entry.items() if name not in texts}
    signature = inspect.signature(KINDS[entry["kind"]])
    try:
        signature.bind(None, **arguments)
    except TypeError as error:
        known = ", ".join(list(signature.parameters)[1:])
        raise ReportError(f"{where}: {error}; {entry['kind']} takes {known}") from None
    for name in ("a", "b"):
        if not isinstance(arguments[name], dict) or not arguments[name]:
            raise ReportError(f"{where}: {name} is {arguments[name]!r}, not overrides such as {{method: hu}}")
    return Claim(**{name: entry[name] for name in texts}, arguments=arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return command.main(command.parser("report.claims", __doc__, results_dir=True), _print_claims, arguments)


def _print_claims(options: argparse.Namespace) -> None:
    experiments = experiments_folder()
    if experiments is None:
        raise ReportError("no folder experiments here; change to a checkout of the suite")
    claims = read_claims(experiments / CLAIMS)
    answers = [answer(claim, options.results_dir) for claim in claims]
    print(write_claims(answers, options.results_dir))


if __name__ == "__main__":
    sys.exit(main())
