"""What a record says stays text in every file of a report: markup, a table's bars, a terminal's commands."""

import re

import pytest
from browser.staged import a_record, write_record

from bench.report.read.load import load_study
from bench.report.tables.render import comment, prose
from bench.report.write import write_report
from bench.runs.record_parts import PhaseCost

SCRIPT = "<script>alert(1)</script>"
PLANTED = (
    SCRIPT,
    "</script><img src=x onerror=alert(1)>",
    '"onmouseover=alert(1) x="',
    "a | b",
    "[here](javascript:alert(1))",
    "two\nlines",
    "$\\frac{x$ and $",
    "\x1b[2Jcleared",
)

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")  # no font has a terminal's escape


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Of a study in which the method's label, its settings, the task, the model and an error hold such text."""
    root = tmp_path_factory.mktemp("planted")
    folder = root / "planted"
    for seed, label in enumerate(PLANTED):
        for value in (0.5, 0.7):
            record = a_record(f"run-{seed}-{value}", f"method{seed}", label, seed=int(10 * value), value=value)
            record.config.method.note = record.identity["method"]["note"] = label
            record.config.task.name = f"t {SCRIPT}"
            record.scores[1].value = 0.25
            record.phases = record.phases | {"initialise": PhaseCost(seconds=0.5, peak_bytes=2**20)}
            write_record(folder, record)
        failed = a_record(f"failed-{seed}", label=label, error=f"it said {label}")
        failed.identity["method"]["note"] = label
        write_record(folder, failed)
    return write_report(load_study(root, "planted"), folder), folder


def test_the_page_holds_no_markup_from_a_record(report):
    page = report[0].page.read_text()
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img src=x" not in page
    bare = re.sub('"[^"]*"', '""', page.partition("<script")[0])  # a value between quotes is no attribute
    assert not [tag for tag in re.findall(r"<[a-z][^>]*>", bare) if re.search(r"\son\w+\s*=", tag)]


def test_a_row_of_a_markdown_table_stays_one_row_of_as_many_cells(report):
    lines = (report[1] / "tables" / "results.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + len(PLANTED)
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_markdown_has_no_tags_no_links_and_no_control_characters(report):
    for path in (report[1] / "tables").glob("*.md"):
        text = path.read_text()
        assert not re.search(r"<[A-Za-z/!?]|\]\(|[\x00-\x09\x0b-\x1f]", text), path.name
        assert "&lt;script>alert(1)&lt;/script>" in text
    assert "\x1b" not in report[0].text


def test_latex_has_no_line_and_no_command_from_a_record(report):
    lines = (report[1] / "tables" / "results.tex").read_text().splitlines()
    assert sum(line.endswith(2 * "\\") for line in lines) == 1 + len(PLANTED)
    (hostile,) = (line for line in lines if "frac" in line)
    assert r"\$\textbackslash{}frac\{x\$ and \$" in hostile


def test_every_figure_is_drawn(report):
    assert {path.stem for path in report[0].figures} >= {"score", "cost"}


def test_numbers_and_intervals_are_left_as_they_are():
    for text in ("<0.001", "50.0 [40.0, 60.0] (3)", "**86.2** †", "`code`"):
        assert prose(text) == text
    assert comment("a\nb") == "% a b\n"
