"""Every method, system, model and dataset of the configuration has a reference, or says why it has none."""

import re

import pytest

from bench.report.references import read_references
from bench.study.folders import CONF

FILES = sorted(path for group in ("method", "system", "model", "dataset") for path in (CONF / group).rglob("*.yaml"))
# A method on trial, whose learning rate is still a guess, needs no more than its two files (README.md, Add a method).
ON_TRIAL = [path for path in FILES if "# a guess" in path.read_text() or path == CONF / "system" / "none.yaml"]
NAMES = {f"{path.relative_to(CONF).parts[0]}/{path.stem}": path for path in FILES if path not in ON_TRIAL}


def arxiv(text):
    return set(re.findall(r"\b\d{4}\.\d{5}\b", text))


@pytest.mark.parametrize("name", NAMES)
def test_it_has_an_entry_or_says_why_it_has_none(name):
    references = read_references()
    cited = {key for key, of in references.cited_for.items() if name in of}
    assert bool(cited) != (name in references.without)


@pytest.mark.parametrize("name", NAMES)
def test_the_paper_that_its_file_names_is_among_its_entries(name):
    references = read_references()
    entries = "".join(entry for key, entry in references.entries.items() if name in references.cited_for[key])
    head = "".join(line for line in NAMES[name].read_text().splitlines() if line.startswith("# "))
    assert arxiv(head) <= arxiv(entries)


def test_no_reference_is_of_something_that_is_not_there():
    references = read_references()
    assert {name for of in references.cited_for.values() for name in of} | references.without.keys() <= NAMES.keys()
