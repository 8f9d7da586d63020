import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUDIES = ("demo", "schemes", "minilm_glue/sst2")
SHOWN = re.findall(r"<!-- results/(.+)/tables/results.md -->", (ROOT / "README.md").read_text())


def skip_own_runs(study):
    if any(study.glob("*/trained.safetensors")):
        pytest.skip(f"{study} holds this machine's own runs, not the committed ones")


def test_the_readme_shows_the_demo_and_a_real_model():
    assert set(SHOWN) == {"demo", "minilm_glue/sst2"}


@pytest.mark.parametrize("study", SHOWN)
def test_a_table_of_the_readme_is_the_studys_own(study):
    folder = ROOT / "results" / study
    skip_own_runs(folder)
    readme = (ROOT / "README.md").read_text()
    shown = readme.partition(f"<!-- results/{study}/tables/results.md -->\n")[2].partition("<!-- end -->")[0]
    assert shown == (folder / "tables" / "results.md").read_text()


@pytest.mark.parametrize("study", STUDIES)
def test_a_committed_table_follows_from_its_records(study, tmp_path):
    from bench.report.load import load_study
    from bench.report.tables import write_tables

    folder = ROOT / "results" / study
    skip_own_runs(folder)
    write_tables(load_study(ROOT / "results", study), tmp_path)
    for name in ("results.md", "results.csv", "results.tex"):
        assert (tmp_path / name).read_bytes() == (folder / "tables" / name).read_bytes()


def paths_of(value):
    """Every absolute path in a configuration."""
    if isinstance(value, dict | list):
        return [path for one in (value.values() if isinstance(value, dict) else value) for path in paths_of(one)]
    return [value] if isinstance(value, str) and Path(value).is_absolute() else []


@pytest.mark.parametrize("study", STUDIES)
def test_no_committed_record_names_a_folder_of_one_machine(study):
    folder = ROOT / "results" / study
    skip_own_runs(folder)
    found = [json.loads(path.read_text())["config"] for path in folder.glob("*/record.json")]
    assert found
    assert paths_of(found) == []
