"""The papers' claims as questions, answered from records: `python -m bench.report.claims`.

experiments/_claims.yaml has the claims. results/claims.md lists them by paper, each with our answer, its interval, n
and the command that makes the records; results/claims.csv has the same numbers unrounded. The functions that answer are
in bench.report.papers.questions.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bench.process import command
from bench.process.files import write_whole
from bench.process.validation import one_line
from bench.report.papers.questions import KINDS, Answer, NotRunError
from bench.report.read.load import ReportError, load_study
from bench.report.tables.render import DASH, prose
from bench.study.folders import experiments_folder
from bench.study.plan_file import run_folders

CLAIMS = "_claims.yaml"
NOT_RUN = "not run yet"
NO_ANSWER = "no answer"  # the study's records cannot be reported

_NOTE = (
    "Yes or no: the whole interval is on one side; otherwise not settled. Intervals of scores are 95 %, paired by seed "
    "and by the items that both methods answered; of steps over seeds; of learning rates what the grid resolves. Every "
    "method is at the best learning rate of its own grid, chosen on the validation split."
)

Text = Annotated[str, Field(min_length=1)]
Overrides = Annotated[dict[str, str], Field(min_length=1)]


class Claim(BaseModel):
    """What a paper says, and which question to which records tests it.

    Attributes:
        source: where the paper says it.
        study: the study whose records answer.
        kind: the function of bench.report.papers.questions that answers.
        a, b: the overrides of the two methods that are compared. Further fields are arguments of the function, too.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    id: Text
    paper: Text
    claim: Text
    source: Text
    study: Text
    kind: Text
    a: Overrides
    b: Overrides

    @property
    def command(self) -> str:
        """The command that makes the records."""
        return f"python -m bench.run -m +experiments={self.study}"

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the function that answers, beside the study."""
        return {"a": self.a, "b": self.b, **(self.model_extra or {})}

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(f"unknown kind; known: {', '.join(KINDS)}")
        return kind

    @model_validator(mode="after")
    def _fits(self) -> Claim:
        signature = inspect.signature(KINDS[self.kind])
        try:
            signature.bind(None, **self.arguments)
        except TypeError as error:
            raise ValueError(f"{error}; {self.kind} takes {', '.join(list(signature.parameters)[1:])}") from None
        return self


def read_claims(path: Path) -> tuple[Claim, ...]:
    """The claims of a YAML file, in its order.

    Raises:
        ReportError: the file is no list of claims, a claim lacks a field or has one that its kind does not take, or two
            claims have one id.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ReportError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(entries, list):
        raise ReportError(f"{path}: not a list of claims; each starts with '- id: NAME'")
    claims: dict[str, Claim] = {}
    for place, entry in enumerate(entries, 1):
        try:
            claim = Claim.model_validate(entry)
        except ValidationError as error:
            name = entry.get("id", place) if isinstance(entry, dict) else place
            raise ReportError(f"{path}: claim {name}: {one_line(error)}") from None
        if claim.id in claims:
            raise ReportError(f"{path}: id {claim.id!r} is given twice; rename one")
        claims[claim.id] = claim
    return tuple(claims.values())


def answer(claim: Claim, results_dir: Path) -> Answer:
    """The answer of the records below a results folder; NOT_RUN if those that the question needs do not exist."""
    if not run_folders(results_dir / claim.study):
        return Answer(NOT_RUN)
    try:
        return KINDS[claim.kind](load_study(results_dir, claim.study), **claim.arguments)
    except NotRunError as error:
        return Answer(NOT_RUN, str(error))
    except ReportError as error:
        return Answer(NO_ANSWER, str(error))


def claims_list(answers: Sequence[tuple[Claim, Answer]]) -> str:
    """The answered claims as a Markdown list under a heading for each paper."""
    lines: list[str] = []
    paper = None
    for claim, found in answers:
        if claim.paper != paper:
            paper = claim.paper
            lines += ["", f"### {paper}", ""]
        numbers = [found.interval] * (found.interval != DASH) + [f"n = {found.n}"] * (found.n is not None)
        details = f": {prose(found.details)}" if found.details else ""
        parts = (f"- {claim.claim} **{found.text}**{details}.", ", ".join(numbers), f"(`{claim.command}`)")
        lines.append(" ".join(part for part in parts if part))
    return "\n".join(lines).lstrip() + "\n"


def write_claims(claims: Sequence[Claim], results_dir: Path, folder: Path) -> str:
    """Answers claims from the records below results_dir, writes claims.md and claims.csv into folder.

    Returns:
        The Markdown.
    """
    answers = [(claim, answer(claim, results_dir)) for claim in claims]
    markdown = f"{claims_list(answers)}\n{_NOTE}\n"
    said = ("id", "paper", "claim", "source", "study", "kind")
    found = ("details", "estimate", "low", "high", "unit", "n")
    rows = pd.DataFrame(
        {name: getattr(claim, name) for name in said}
        | {"answer": one.text}
        | {name: getattr(one, name) for name in found}
        | {"command": claim.command}
        for claim, one in answers
    ).astype({"n": "Int64"})
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "claims.md", markdown)
    write_whole(folder / "claims.csv", rows.to_csv(index=False, lineterminator="\n"))
    return markdown


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return command.main(command.parser("report.claims", __doc__, results_dir=True), _print_claims, arguments)


def _print_claims(options: argparse.Namespace) -> None:
    experiments = experiments_folder()
    if experiments is None:
        raise ReportError("no folder experiments here; change to a checkout of the suite")
    print(write_claims(read_claims(experiments / CLAIMS), options.results_dir, options.results_dir))


if __name__ == "__main__":
    sys.exit(main())
