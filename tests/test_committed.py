import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
STUDIES = sorted(str(path.parent.parent.relative_to(RESULTS)) for path in RESULTS.rglob("tables/results.md"))
DRAWN = ("demo", "lora_ga/llama2_tiny", "impact_of_init/width_tiny")  # with and without stages, and of several models
LIMIT_BYTES = 100_000_000


def files(folder, *endings):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.suffix in endings}


@pytest.mark.parametrize("study", STUDIES)
def test_committed_tables_follow_from_their_records(study, tmp_path):
    from bench.report.papers.published import write_paper_tables
    from bench.report.read.load import load_study
    from bench.report.tables.tables import write_tables

    loaded = load_study(RESULTS, study)
    write_tables(loaded, tmp_path)
    write_paper_tables(loaded, tmp_path)
    kinds = (".md", ".csv", ".tex")
    assert files(tmp_path, *kinds) == files(RESULTS / study / "tables", *kinds)


@pytest.mark.parametrize("study", DRAWN)
def test_committed_figures_follow_from_their_records(study, tmp_path):
    from bench.report.figures import write_figures
    from bench.report.read.load import load_study

    write_figures(load_study(RESULTS, study), tmp_path)
    committed = RESULTS / study / "figures"
    assert files(tmp_path, ".csv") == files(committed, ".csv")
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {path.name for path in committed.glob("*.png")}
    assert names


def test_the_claims_are_answered_by_the_committed_records(tmp_path):
    from bench.report.claims import read_claims, write_claims

    claims = write_claims(read_claims(ROOT / "experiments" / "_claims.yaml"), RESULTS, tmp_path)
    not_run = re.findall(r"\*\*not run yet\*\*.*experiments=([^`]+)`", claims)
    assert not_run == []
    assert (tmp_path / "claims.md").read_bytes() == (RESULTS / "claims.md").read_bytes()
    assert (tmp_path / "claims.csv").read_bytes() == (RESULTS / "claims.csv").read_bytes()


def test_the_demos_page_needs_no_network():
    page = (RESULTS / "demo" / "index.html").read_text()
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=.?https?:", page)


def test_committed_results_stay_small():
    kept = [p for p in RESULTS.rglob("*") if p.is_file() and p.name != "index.html" and p.suffix != ".pdf"]
    assert sum(p.stat().st_size for p in kept) < LIMIT_BYTES


def paths_of(value):
    """Every absolute path in a configuration."""
    if isinstance(value, dict | list):
        return [path for one in (value.values() if isinstance(value, dict) else value) for path in paths_of(one)]
    return [value] if isinstance(value, str) and Path(value).is_absolute() else []


@pytest.mark.parametrize("study", STUDIES)
def test_no_committed_record_names_a_folder_of_one_machine(study):
    found = [json.loads(path.read_text())["config"] for path in (RESULTS / study).glob("*/record.json")]
    assert found
    assert paths_of(found) == []
