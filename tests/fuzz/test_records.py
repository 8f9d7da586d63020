"""Whatever bytes a study's files hold, they are a record, rows or a plan, or one line that says they are none."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.runs.record import (
    CURVE,
    RECORD,
    SCHEMA_VERSION,
    CorruptRecordError,
    Record,
    read_record,
    read_rows,
    write_record,
)
from bench.study.plan_file import STUDY, CorruptPlanError, StudyPlan, read_plan
from values import json_like, mutated, one_line, places, values

RESULTS = Path(__file__).parents[2] / "results"


def small(content):
    """Without what is long and the same again and again."""
    content["initialization"] = content["initialization"] | {"layers": content["initialization"]["layers"][:2]}
    content["initialization"]["calibration_ids"] = content["initialization"]["calibration_ids"][:3]
    return content


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Records as they are written: of schema 3, and of this one, whose checksum is made anew after each change."""
    found = [small(json.loads(path.read_text())) for path in sorted(RESULTS.glob("schemes/*/record.json"))[::15]]
    assert len(found) > 2
    return [(content, places(content)) for content in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


def dumped(content):
    """As JSON; None where not even that can be written."""
    try:
        return json.dumps(content)
    except (ValueError, RecursionError, TypeError):
        return None


def read_or_one_line(folder, content):
    (folder / RECORD).write_bytes(content)
    before = sorted(folder.iterdir())
    try:
        record = read_record(folder)
    except CorruptRecordError as error:
        one_line(error)
        return None
    finally:
        assert sorted(folder.iterdir()) == before
    assert isinstance(record, Record)
    return record


def relied_upon(record):
    """What reports take for granted of a record that was read."""
    assert "/" not in record.run_id
    assert isinstance(record.config.method.name + record.config.task.name + record.config.model.name, str)
    assert sum(phase.seconds for phase in record.phases.values()) >= 0
    assert all("/" not in name for name in record.files)


@given(content=st.one_of(st.binary(max_size=300), json_like.map(lambda value: (dumped(value) or "").encode())))
def test_random_bytes_and_random_json_are_no_record(folder, content):
    assert read_or_one_line(folder, content) is None


@given(data=st.data())
def test_a_mutated_record_is_a_record_or_one_line(folder, written, data):
    content, known_places = data.draw(st.sampled_from(written))
    if (text := dumped(mutated(data.draw, content, known_places))) is None:
        return
    record = read_or_one_line(folder, text.encode())
    if record is not None:
        relied_upon(record)
        record.schema_version = SCHEMA_VERSION
        write_record(folder, record)
        relied_upon(read_record(folder))


@given(data=st.data())
def test_a_torn_or_flipped_record_is_a_record_or_one_line(folder, written, data):
    raw = bytearray(json.dumps(data.draw(st.sampled_from(written))[0]).encode())
    place = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw = raw[:place]
    else:
        raw[place] ^= 1 << data.draw(st.integers(0, 7))
    record = read_or_one_line(folder, bytes(raw))
    if record is not None:
        relied_upon(record)


ROWS = [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}]


@given(data=st.data(), packed=st.booleans())
def test_rows_are_rows_or_one_line(folder, data, packed):
    lines = [data.draw(st.one_of(st.just(row), json_like, values)) for row in ROWS]
    raw = "".join(f"{dumped(line)}\n" for line in lines).encode(errors="surrogatepass")
    raw = gzip.compress(raw, mtime=0) if packed else raw
    cut = data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw))))
    path = folder / (f"{CURVE}.gz" if packed else CURVE)
    path.write_bytes(raw[:cut] + data.draw(st.one_of(st.just(b""), st.binary(max_size=20))))
    try:
        found = read_rows(folder / CURVE)
    except CorruptRecordError as error:
        one_line(error)
    else:
        assert all(isinstance(row, dict) for row in found)
    finally:
        path.unlink()


PLAN = {
    "experiment": "demo",
    "stages": ["select", "tuned"],
    "runs": [
        {"stage": "select", "group": ["method=hu"], "overrides": ["seed=0"], "run_id": "hu-1", "refused": None},
        {"stage": "tuned", "group": ["method=hu"], "overrides": ["method=hu"], "run_id": None, "refused": "too large"},
    ],
}


@given(data=st.data())
def test_a_plan_is_a_plan_or_one_line(folder, data):
    content = mutated(data.draw, PLAN, places(PLAN)) if data.draw(st.booleans()) else data.draw(values)
    text = dumped(content) or "["
    cut = data.draw(st.one_of(st.just(len(text)), st.integers(0, len(text))))
    (folder / STUDY).write_text(text[:cut])
    try:
        plan = read_plan(folder)
    except CorruptPlanError as error:
        one_line(error)
        return
    assert isinstance(plan, StudyPlan)
    assert plan.joined(plan).stages
    for run in plan.runs:
        assert run.run_id is None or "/" not in run.run_id
        plan.command(run).encode()
