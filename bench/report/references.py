"""BibTeX of the methods, models and datasets that a study uses, from conf/references.bib.

The file is BibTeX of one field a line. A field of ours, `suite`, names what an entry is cited for, as GROUP/NAME of the
configuration; a comment `no reference for GROUP/NAME, ...: why` stands for what has no entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.report.read.load import Study
from bench.study.folders import CONF

BIBLIOGRAPHY = CONF / "references.bib"
_ENTRY = re.compile(r"^@\w+\{(?P<key>[^,\s]+),\n.*?^\}$", re.MULTILINE | re.DOTALL)
_SUITE = re.compile(r"^ *suite = \{(.*)\},\n", re.MULTILINE)
_NONE = re.compile(r"^% no reference for (.+?): (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class References:
    """The bibliography.

    Attributes:
        entries: of each key its BibTeX, without the field `suite`.
        cited_for: of each key what it is cited for, such as method/lora_ga.
        without: why something has no entry, by its name.
    """

    entries: dict[str, str]
    cited_for: dict[str, tuple[str, ...]]
    without: dict[str, str]

    def of(self, names: Iterable[str]) -> str:
        """BibTeX of everything named, in the file's order; a comment for what has no entry."""
        wanted = list(dict.fromkeys(names))
        texts = [text for key, text in self.entries.items() if {*self.cited_for[key]} & {*wanted}]
        known = {name for of in self.cited_for.values() for name in of}
        missing = [name for name in wanted if name not in known]
        why = [f"% {name}: {self.without.get(name, f'no entry in {BIBLIOGRAPHY.name}')}" for name in missing]
        return "\n".join(["\n\n".join(texts), *([""] if texts and why else []), *why]).strip() + "\n"


def read_references(path: Path = BIBLIOGRAPHY) -> References:
    """The suite's bibliography."""
    text = path.read_text(encoding="utf-8")
    found = {entry["key"]: entry[0] for entry in _ENTRY.finditer(text)}
    cited_for = {key: _names("".join(_SUITE.findall(entry))) for key, entry in found.items()}
    without = {name: why for names, why in _NONE.findall(text) for name in _names(names)}
    return References({key: _SUITE.sub("", entry) for key, entry in found.items()}, cited_for, without)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def used_by(studies: Iterable[Study]) -> list[str]:
    """What the runs of studies use, as GROUP/NAME: methods, systems, models and datasets, each sorted."""
    records = [record for study in studies for _, record in study.members]
    datasets = {name for record in records for name in (record.config.task.model_extra or {}).get("datasets", {})}
    groups = {
        "method": {record.config.method.name for record in records},
        "system": {record.config.system.name for record in records} - {"none"},
        "model": {record.config.model.name for record in records},
        "dataset": datasets or {score.task for record in records for score in record.scores},
    }
    return [f"{group}/{name}" for group, names in groups.items() for name in sorted(names)]
