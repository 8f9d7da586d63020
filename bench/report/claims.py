"""The papers' claims as questions, answered from records: `python -m bench.report.claims`.

experiments/_claims.yaml has the claims. results/claims.md lists them by paper, each with our answer, its interval, n
and the command that makes the records; results/claims.csv has the same numbers unrounded. The functions that answer are
in bench.report.papers.questions.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bench.process import command
from bench.process.files import write_whole
from bench.process.places import RESULTS
from bench.process.validation import one_line
from bench.report.judge.significance import ALPHA, holm
from bench.report.papers.answers import Answer, NotRunError
from bench.report.papers.questions import KINDS, Compared
from bench.report.read.load import ReportError, Study, load_study
from bench.report.tables.render import DASH, FLOATS, p_text, prose
from bench.study.folders import experiments_folder
from bench.study.plan_file import run_folders

CLAIMS = "_claims.yaml"
NOT_RUN = "not run yet"
NO_ANSWER = "no answer"  # the study's records cannot be reported

_NOTE = (
    "Yes or no: p < 0.05, of scores after Holm's correction over {number}, and the 95 % interval excludes equality; "
    "score and loss agree in sign. Equivalent: two one-sided tests within 1 "
    "point, or 5 % of the loss, unless said otherwise. Not learned: neither method is two standard errors better than "
    "chance. Undecided: the seeds named, of each method, find the difference seen with probability 0.8 at the first "
    "step of the correction. Intervals of scores are over seeds (Welch) and the items that both answered, of learning "
    "rates over selection seeds and the grid, of steps over seeds. Every method is at the learning rate that its own "
    "search, or in older studies its grid, chose on the validation split. Questions of the same runs are not "
    "independent evidence."
)

Text = Annotated[str, Field(min_length=1)]
Overrides = Annotated[dict[str, str], Field(min_length=1)]


class Claim(BaseModel):
    """What a paper says, and which question to which records tests it.

    Attributes:
        source: where the paper says it.
        study: the study whose records answer; several of a question that takes several.
        kind: the function of bench.report.papers.questions that answers.
        a, b: the overrides of the two methods that are compared; None where a question is about all of a study.
            Further fields are arguments of the function, too.
        tier: of the models; questions on scores of one tier are corrected for their number together.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    id: Text
    paper: Text
    claim: Text
    source: Text
    study: Text | Annotated[list[Text], Field(min_length=1)]
    kind: Text
    a: Overrides | None = None
    b: Overrides | None = None
    tier: Text = "embedded"

    @property
    def studies(self) -> list[str]:
        """The names of its studies."""
        return [self.study] if isinstance(self.study, str) else self.study

    @property
    def command(self) -> str:
        """The command that makes the records, or one for each study."""
        return " && ".join(f"python -m bench.run -m +experiments={study}" for study in self.studies)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the function that answers, beside the study."""
        compared = {name: group for name, group in (("a", self.a), ("b", self.b)) if group is not None}
        return compared | (self.model_extra or {})

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
        if not self.takes_several and len(self.studies) > 1:
            raise ValueError(f"{self.kind} is asked of one study, not of {len(self.studies)}")
        return self

    @property
    def takes_several(self) -> bool:
        """Whether the function that answers takes a sequence of studies."""
        return next(iter(inspect.signature(KINDS[self.kind]).parameters)) == "studies"


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


def answers(claims: Sequence[Claim], results_dir: Path) -> list[Answer]:
    """The answers of the records below a folder; those about scores are corrected for their number in their tier."""
    load = functools.cache(lambda study: load_study(results_dir, study))  # of which most have several claims
    found = [_asked(claim, results_dir, load) for claim in claims]
    compared = [one.p if isinstance(one, Compared) else None for one in found]
    corrected: dict[int, float] = {}
    alphas: dict[str, float] = {}
    for tier in {claim.tier for claim in claims}:
        tested = {at: p for at, p in enumerate(compared) if p is not None and claims[at].tier == tier}
        corrected |= dict(zip(tested, holm([*tested.values()]), strict=True))
        alphas[tier] = ALPHA / max(1, len(tested))
    return [
        one if isinstance(one, Answer) else one.answer(corrected.get(at), alphas[claims[at].tier])
        for at, one in enumerate(found)
    ]


def _asked(claim: Claim, results_dir: Path, load: Callable[[str], Study]) -> Answer | Compared:
    """What the records say to one claim alone; NOT_RUN if those that the question needs do not exist."""
    if not all(run_folders(results_dir / study) for study in claim.studies):
        return Answer(NOT_RUN)
    try:
        loaded = [load(study) for study in claim.studies]
        return KINDS[claim.kind](loaded if claim.takes_several else loaded[0], **claim.arguments)
    except NotRunError as error:
        return Answer(NOT_RUN, str(error))
    except ReportError as error:
        return Answer(NO_ANSWER, str(error))


def sharing(found: Sequence[Answer]) -> list[tuple[int, ...]]:
    """For each answer the places of the others that rest on some of the same runs."""
    return [
        tuple(place for place, other in enumerate(found) if other is not one and one.runs & other.runs) for one in found
    ]


def claims_list(answered: Sequence[tuple[Claim, Answer]]) -> str:
    """The answered claims as a Markdown list, numbered, under a heading for each paper."""
    lines: list[str] = []
    paper = None
    shared = sharing([found for _, found in answered])
    for number, (claim, found) in enumerate(answered, 1):
        if claim.paper != paper:
            paper = claim.paper
            lines += ["", f"### {paper}", ""]
        numbers = [found.interval] * (found.interval != DASH) + [f"n = {found.n}"] * (found.n is not None)
        numbers += [f"p = {p_text(found.p_holm)}".replace("= <", "< ")] * (found.p_holm is not None)
        details = f": {prose(found.details)}" if found.details else ""
        same = ", ".join(str(place + 1) for place in shared[number - 1])
        parts = (
            f"- ({number}) {claim.claim} **{found.text}**{details}.",
            "; ".join([*([", ".join(numbers)] if numbers else []), *([f"same runs as {same}"] if same else [])]),
            f"(`{claim.command}`)",
        )
        lines.append(" ".join(part for part in parts if part))
    return "\n".join(lines).lstrip() + "\n"


def write_claims(claims: Sequence[Claim], results_dir: Path, folder: Path) -> str:
    """Answers claims from the records below results_dir, writes claims.md and claims.csv into folder.

    Returns:
        The Markdown.
    """
    found = answers(claims, results_dir)
    answered = list(zip(claims, found, strict=True))
    note = _NOTE.format(number=_number(Counter(claim.tier for claim, one in answered if one.p_holm is not None)))
    markdown = f"{claims_list(answered)}\n{note}\n"
    said = ("id", "paper", "claim", "source", "study", "kind")
    numbers = ("details", "estimate", "low", "high", "unit", "n", "p", "p_holm", "seeds_needed")
    rows = pd.DataFrame(
        {name: getattr(claim, name) for name in said}
        | {"study": " ".join(claim.studies)}
        | {"answer": one.text}
        | {name: getattr(one, name) for name in numbers}
        | {"same_runs": " ".join(claims[place].id for place in shared)}
        | {"command": claim.command}
        for (claim, one), shared in zip(answered, sharing(found), strict=True)
    ).astype({"n": "Int64", "seeds_needed": "Int64"})
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "claims.md", markdown)
    write_whole(folder / "claims.csv", rows.to_csv(index=False, lineterminator="\n", float_format=FLOATS))
    return markdown


def _number(by_tier: Mapping[str, int]) -> str:
    """How many questions on scores there are."""
    if len(by_tier) < 2:
        return f"all {sum(by_tier.values())} questions on scores"
    return f"the questions on scores of its tier ({', '.join(f'{number} {tier}' for tier, number in by_tier.items())})"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = command.parser("report.claims", __doc__)
    parser.add_argument("--results-dir", type=Path, default=RESULTS, help="default: results")
    return command.main(parser, _print_claims, arguments)


def _print_claims(options: argparse.Namespace) -> None:
    experiments = experiments_folder()
    if experiments is None:
        raise ReportError("no folder experiments here; change to a checkout of the suite")
    print(write_claims(read_claims(experiments / CLAIMS), options.results_dir, options.results_dir))


if __name__ == "__main__":
    sys.exit(main())
