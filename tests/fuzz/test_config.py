"""Whatever a configuration or a command line holds, it is a run or one line that says what is wrong with it."""

import contextlib
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.config import ConfigError, Run
from bench.runs.names import is_name, study_folder
from bench.sweep.arguments import KEYS, check_arguments
from values import mutated, one_line, places, texts, values

BASES = ["method=hu", "method=lora_ga", "method=none", "task=gsm8k", "task=glue/rte", "model=t5_base"]


@pytest.fixture(scope="module")
def bases(compose):
    found = [compose(*overrides.split()) for overrides in BASES]
    return [(config, places(config)) for config in found]


def run_or_one_line(config):
    try:
        run = Run.from_config(config)
    except ConfigError as refused:
        one_line(refused)
        return None
    return run


@given(data=st.data())
def test_a_mutated_configuration_is_a_run_or_refused_in_one_line(bases, data):
    config, known_places = data.draw(st.sampled_from(bases))
    run = run_or_one_line(mutated(data.draw, config, known_places))
    if run is not None:
        try:
            assert is_name(run.run_id)
        except ValueError as error:  # of a file that is not there, which the command line tells in one line
            assert str(error)  # noqa: PT017
        study_folder(run.results_dir, run.study)
        run.to_dict()


@given(config=values)
def test_anything_else_is_refused_in_one_line(config):
    assert run_or_one_line(config) is None


@given(target=texts, fields=st.dictionaries(texts, values, max_size=2))
def test_no_target_but_a_method_is_ever_called(bases, target, fields):
    config = dict(bases[0][0])
    config["method"] = {"name": "hu", "_target_": target} | fields
    run = run_or_one_line(config)
    assert run is None or type(run.method).__module__.startswith("bench.methods.")


KEY = st.one_of(
    st.sampled_from([*KEYS, "experiments", "+experiments", "~task", "method._target_", "hydra.callbacks.x"]), texts
)
ARGUMENTS = st.one_of(st.builds("{}={}".format, KEY, st.one_of(texts, values.map(str))), texts)


@given(arguments=st.lists(ARGUMENTS, max_size=3))
@example(arguments=["launch=[]"])
def test_a_command_line_is_accepted_or_refused_in_one_line(arguments):
    said, status = io.StringIO(), 0
    with contextlib.redirect_stderr(said):
        try:
            check_arguments(arguments)
        except SystemExit as stopped:
            status = stopped.code
    assert (status, len(said.getvalue().splitlines())) in ((0, 0), (2, 1)), said.getvalue()
