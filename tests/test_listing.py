import subprocess
import sys

import pytest

from bench.plan import methods_table
from bench.study.folders import CONF
from bench.sweep.choices import choices


def rows(capsys, *arguments, table=0):
    assert methods_table.main(arguments) == 0
    shown = capsys.readouterr().out.split("\n\n")[2 * table]
    lines = [line for line in shown.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:]}


def test_every_method_is_listed_with_paper_needs_and_parameters(capsys):
    found = rows(capsys, "rank=r4")
    shapes = [(160, 128), (80, 128), (80, 128), (128, 160), (320, 128), (320, 128), (128, 320)]
    assert found["hu"]["parameters"] == f"{4 * sum(4 * (m + n) for m, n in shapes):,}"
    assert found["asymmetry_b"]["parameters"] == f"{4 * sum(4 * m for m, _ in shapes):,}"
    assert found["lora_sb"] == {
        "method": "lora_sb", "label": "LoRA-SB", "trains": "lora_R", "needs": "gradient", "keeps the function": "no",
        "parameters": "448", "paper": "Ponkshe et al. 2024, Algorithm 1, arXiv:2411.19557",
    }  # fmt: skip
    assert found["full_ft"]["parameters"] == "803,968"
    assert found["none"]["parameters"] == "0"
    assert sorted(found) == choices(CONF / "method")


def test_every_system_is_listed_with_the_methods_that_it_takes(capsys):
    found = rows(capsys, "rank=r4", table=1)
    assert sorted(["none", *found]) == choices(CONF / "system")
    assert found["flora"]["combines with"] == "full_ft"
    assert found["adalora"]["combines with"] == "hu"
    taken = found["lora_pro"]["combines with"].split()
    assert {"hu", "lora_ga", "reversed", "orthogonal"} <= {*taken}
    assert {"full_ft", "none", "mica", "lora_sb", "asymmetry_a"}.isdisjoint(taken)
    assert all("arXiv:" in row["paper"] for row in found.values())


def test_an_option_that_some_method_cannot_carry_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit):
        methods_table.main(["adapter.use_dora=true"])
    assert "adapter.use_dora=true needs a method that trains lora_A or lora_B" in capsys.readouterr().err


def test_a_rank_that_does_not_fit_is_answered_in_one_line(capsys):
    assert methods_table.main(["rank=r96"]) == 2
    assert "rank.r=96 is larger than the smaller side 80" in capsys.readouterr().err


def test_the_command_needs_no_weights_and_no_network():
    done = subprocess.run(
        [sys.executable, "-m", "bench.methods", "model=llama3_2_1b", "rank=r32"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "22,544,384" in done.stdout
    assert "1,235,814,400" in done.stdout
