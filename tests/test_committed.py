import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "results" / "demo"
STUDIES = sorted(path.parent for path in (ROOT / "results").glob("*/tables") if path.parent.name in ("demo", "schemes"))


def skip_own_runs(study):
    if any(study.glob("*/trained.safetensors")):
        pytest.skip(f"{study} holds this machine's own runs, not the committed ones")


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_runs_and_is_committed_without_output(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    namespace = {}
    for cell in cells:
        exec("".join(cell["source"]), namespace)


def test_the_readme_shows_the_demos_own_table():
    skip_own_runs(DEMO)
    table = (DEMO / "tables" / "results.md").read_text()
    readme = (ROOT / "README.md").read_text()
    shown = readme.partition("<!-- results/demo/tables/results.md -->\n")[2].partition("<!-- end -->")[0]
    assert shown == table


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_a_committed_table_follows_from_its_records(study, tmp_path):
    from bench.report.load import load_study
    from bench.report.tables import write_tables

    skip_own_runs(study)
    write_tables(load_study(ROOT / "results", study.name), tmp_path)
    for name in ("results.md", "results.csv", "results.tex"):
        assert (tmp_path / name).read_bytes() == (study / "tables" / name).read_bytes()
