import os
import subprocess
import sys

import pytest

import bench
from bench.process import command
from bench.process.validation import one_line


def parser(**options):
    return command.parser("status", "What it does: `python -m bench.status`.\n\nMore.", **options)


def test_a_parser_has_the_commands_name_its_modules_first_line_and_the_results_folder(capsys):
    with pytest.raises(SystemExit):
        command.main(parser(study=True), print, ["--help"])
    printed = capsys.readouterr().out
    usage = "usage: python -m bench.status [-h] [--config-dir DIR] [--results-dir RESULTS_DIR] study "
    assert " ".join(printed.split()).startswith(usage)
    assert "\nWhat it does\n" in printed
    assert "More." not in printed


@pytest.mark.parametrize("error", [ValueError("r=9 is too large\nr is at most 8"), OSError("disk full")])
def test_what_is_refused_is_an_error_on_stderr_and_status_2(error, capsys):
    def call(options):
        raise error

    assert command.main(parser(), call, []) == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_the_exit_status_is_what_the_call_returns_and_libraries_are_quiet(monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    assert command.main(parser(), lambda options: None, []) == 0
    assert command.main(parser(), lambda options: 1, []) == 1
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


@pytest.mark.parametrize(
    "set_by_user", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "9"}]
)
def test_waiting_threads_spin_for_a_bounded_time_unless_the_user_has_said_for_how_long(set_by_user):
    names = ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"]
    environment = {name: value for name, value in os.environ.items() if name not in names} | set_by_user
    code = "import bench, os, sys; print({n: os.environ[n] for n in NAMES if n in os.environ}, 'torch' in sys.modules)"
    words = [sys.executable, "-c", code.replace("NAMES", repr(names))]
    printed = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == f"{set_by_user or bench.BOUNDED_SPINNING} False"


def test_one_line_of_an_error_is_its_first_or_its_name():
    assert one_line(ValueError("a\nb")) == "a"
    assert one_line(KeyError()) == "KeyError"
