"""`python -m bench.report STUDY --bib`: BibTeX of what a study uses, each entry once."""

import re
from pathlib import Path

import pytest
import yaml

from bench.report.__main__ import main
from bench.report.read.load import load_study
from bench.report.references import BIBLIOGRAPHY, read_references, used_by

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


def test_a_studys_bibliography_has_its_methods_models_and_datasets_and_says_what_has_no_entry(capsys):
    assert main(["minilm_glue/sst2", "--results-dir", str(RESULTS), "--bib"]) == 0
    text = capsys.readouterr().out
    keys = re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE)
    assert keys == [
        "hu2021lora", "hayou2024impact", "zhu2024asymmetry", "wang2024loraga", "balazy2024loraxs", "ponkshe2024lorasb",
        "wang2020minilm", "wang2018glue", "socher2013sst",
    ]  # fmt: skip
    assert "suite =" not in text
    assert "% method/none: the references of the comparison, proposed by no one paper\n" in text
    assert text.count("{") == text.count("}")


def test_several_studies_have_one_bibliography(capsys):
    assert main(["demo", "schemes", "--results-dir", str(RESULTS), "--bib"]) == 0
    keys = re.findall(r"^@\w+\{(\w+),$", capsys.readouterr().out, re.MULTILINE)
    assert len(keys) == len(set(keys))
    assert {"lora_init_bench", "meng2024pissa", "mangrulkar2022peft"} <= {*keys}


def test_what_is_used_is_named_by_group():
    assert used_by([load_study(RESULTS, "lora_sb/commonsense_tiny")]) == [
        "method/hu", "method/lora_sb", "method/lora_xs", "model/tiny_llama", "dataset/commonsense_tiny"
    ]  # fmt: skip


def test_a_method_of_ones_own_without_an_entry_is_named():
    text = read_references().of(["method/my_init", "method/pissa"])
    assert text.startswith("@misc{meng2024pissa,\n")
    assert text.endswith("\n\n% method/my_init: no entry in references.bib\n")
    assert read_references().of(["method/my_init"]) == "% method/my_init: no entry in references.bib\n"


def test_generated_data_and_models_cite_the_suite_as_its_citation_file_says():
    references, stated = read_references(), yaml.safe_load((ROOT / "CITATION.cff").read_text())
    own = references.entries["lora_init_bench"]
    assert f"title = {{{stated['title']}}}" in own
    assert f"version = {{{stated['version']}}}" in own
    assert stated["authors"][0]["name"] in own
    assert {"model/tiny_llama", "dataset/gsm_tiny"} <= {*references.cited_for["lora_init_bench"]}


@pytest.mark.parametrize("key", read_references().entries)
def test_every_entry_has_its_author_and_title_and_cites_a_paper_for_something(key):
    entry = read_references().entries[key]
    assert re.search(r"^  author = \{.+\},$", entry, re.MULTILINE)
    assert re.search(r"^  title = \{.+\},$", entry, re.MULTILINE)
    assert entry.count("{") == entry.count("}")
    if "archivePrefix" in entry:
        number, year = (re.search(rf"{field} = {{(.+)}}", entry)[1] for field in ("eprint", "year"))
        assert re.fullmatch(r"\d{4}\.\d{4,5}", number)
        assert abs(int(number[:2]) - int(year[2:])) <= 1  # an arXiv number begins with year and month
    assert read_references().cited_for[key]


def test_no_entry_of_the_file_is_lost():
    text = BIBLIOGRAPHY.read_text()
    assert len(read_references().entries) == len(re.findall("^@", text, re.MULTILINE))
    numbers = re.findall(r"eprint = \{(.+)\}", text)
    assert len(numbers) == len(set(numbers))
