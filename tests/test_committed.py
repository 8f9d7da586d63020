import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "results" / "demo"
as_committed = pytest.mark.skipif(
    any(DEMO.glob("*/trained.safetensors")), reason="results/demo holds this machine's own runs, not the committed ones"
)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_runs_and_is_committed_without_output(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    namespace = {}
    for cell in cells:
        exec("".join(cell["source"]), namespace)


@as_committed
def test_the_readme_shows_the_demos_own_table():
    table = (DEMO / "tables" / "results.md").read_text()
    readme = (ROOT / "README.md").read_text()
    shown = readme.partition("<!-- results/demo/tables/results.md -->\n")[2].partition("<!-- end -->")[0]
    assert shown == table


@as_committed
def test_the_demos_table_follows_from_its_records(tmp_path):
    from bench.report.load import load_study
    from bench.report.tables import write_tables

    write_tables(load_study(ROOT / "results", "demo"), tmp_path)
    for name in ("results.md", "results.csv", "results.tex"):
        assert (tmp_path / name).read_bytes() == (DEMO / "tables" / name).read_bytes()
