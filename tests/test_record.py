import json
import shutil

import pytest
from records import make_record

from bench.process.files import write_whole
from bench.runs.attempt import held
from bench.runs.folder import RunFolder
from bench.runs.record import (
    COMPLETED,
    CURVE,
    FAILED,
    RECORD,
    SCHEMA_VERSION,
    WEIGHTS,
    CorruptRecordError,
    describe_files,
    differing_files,
    identity_digest,
    read_record,
    read_rows,
    without_timing,
    write_record,
)

IDENTITY = {"seed": 0}
RUN_ID = f"hu-{identity_digest(IDENTITY)}"


def a_record(status=COMPLETED, run_id=RUN_ID):
    named = {name: {"name": name} for name in ("method", "task", "model")}
    config = {"seed": 0, "train": {"learning_rate": 0.1}, "rank": {"name": "r4", "r": 4}} | named
    return make_record(run_id, status, "LoRA", config, IDENTITY, {"fingerprint": "f"})


def finished(root, status=COMPLETED, weights=True, run_id=RUN_ID):
    folder = RunFolder(root, "study", run_id)
    with held(folder, 60, wait=False) as attempt:
        attempt.append(CURVE, [{"step": 1, "loss": 2.5}])
        if weights:
            attempt.weights_path.write_bytes(b"weights")
        attempt.close(a_record(status, run_id), [{"task": "t", "doc_id": 0}])
    return folder


def test_a_record_comes_back_as_it_was_written(tmp_path):
    folder = finished(tmp_path)
    record = read_record(folder.path)
    assert record.files.keys() == {CURVE, WEIGHTS, "outcomes.jsonl.gz"}
    record.files = {}
    assert record == a_record()
    assert read_rows(folder.path / CURVE) == [{"step": 1, "loss": 2.5}]
    assert read_rows(folder.path / "outcomes.jsonl.gz") == [{"task": "t", "doc_id": 0}]


def test_a_folder_is_done_only_with_a_completed_record_and_its_weights(tmp_path):
    assert not RunFolder(tmp_path, "study", RUN_ID).done
    assert finished(tmp_path).done
    assert not finished(tmp_path, FAILED).done
    folder = finished(tmp_path)
    (folder.path / WEIGHTS).unlink()
    assert not folder.done


@pytest.mark.parametrize("name", [CURVE, WEIGHTS, "outcomes.jsonl.gz"])
def test_a_folder_with_a_file_cut_short_is_not_done(tmp_path, name):
    folder = finished(tmp_path)
    content = (folder.path / name).read_bytes()
    (folder.path / name).write_bytes(content[:-1])
    assert not folder.done
    assert differing_files(folder.path, read_record(folder.path)) == [name]


def test_a_folder_under_another_runs_name_is_not_done(tmp_path):
    folder = finished(tmp_path)
    other = RunFolder(tmp_path, "study", f"hu-{identity_digest({'seed': 1})}")
    shutil.copytree(folder.path, other.path)
    assert folder.done
    assert not other.done


def test_a_record_whose_identity_is_another_is_not_done(tmp_path):
    folder = finished(tmp_path)
    record = read_record(folder.path)
    record.identity = {"seed": 1}
    write_record(folder.path, record)
    assert not folder.done


def test_a_record_of_the_schema_without_checksums_is_read_and_not_done(tmp_path):
    folder = finished(tmp_path)
    content = json.loads((folder.path / RECORD).read_text())
    for name in ("checksum", "files", "attempts", "command"):
        del content[name]
    (folder.path / RECORD).write_text(json.dumps(content | {"schema_version": 3}))
    assert read_record(folder.path).schema_version == 3
    assert not folder.done


def test_equal_outcomes_are_equal_bytes(tmp_path):
    one, two = finished(tmp_path / "a"), finished(tmp_path / "b")
    assert (one.path / "outcomes.jsonl.gz").read_bytes() == (two.path / "outcomes.jsonl.gz").read_bytes()


def test_a_record_that_is_cut_is_no_record_and_no_done_run(tmp_path):
    folder = finished(tmp_path)
    whole = (folder.path / RECORD).read_bytes()
    for length in (len(whole) // 2, len(whole) - 2):  # without its last line break it is still whole
        (folder.path / RECORD).write_bytes(whole[:length])
        with pytest.raises(CorruptRecordError, match=r"record\.json"):
            read_record(folder.path)
        assert not folder.done


def test_a_record_with_any_changed_value_is_refused(tmp_path):
    folder = finished(tmp_path)
    whole = (folder.path / RECORD).read_text()
    for old, new in (('"loss": 2.5', '"loss": 2.6'), ('"fingerprint": "f"', '"fingerprint": "g"'), ("0.1", "0.2")):
        if old in whole:
            (folder.path / RECORD).write_text(whole.replace(old, new))
            with pytest.raises(CorruptRecordError, match="changed since it was written"):
                read_record(folder.path)
            assert not folder.done


def test_an_older_record_is_read_under_the_names_of_this_version(tmp_path):
    content = a_record().model_dump() | {"schema_version": 3, "training": {"held_out_loss": 2.5, "note": 1}}
    (tmp_path / RECORD).write_text(json.dumps(content))
    record = read_record(tmp_path)
    assert record.eval_loss == 2.5
    assert record.training.model_dump() == {"eval_loss": 2.5, "note": 1}  # an unknown field is kept


def test_a_field_of_another_type_is_named_in_one_line(tmp_path):
    content = a_record().model_dump() | {"schema_version": 3, "phases": {"train": {"seconds": "long"}}}
    (tmp_path / RECORD).write_text(json.dumps(content))
    with pytest.raises(CorruptRecordError, match=r"record\.json: phases\.train\.seconds: input should be a valid num"):
        read_record(tmp_path)


def test_what_follows_a_records_checksum_does_not_slip_by(tmp_path):
    folder = finished(tmp_path)
    whole = (folder.path / RECORD).read_text()
    assert whole.endswith('"\n}\n')
    for added in (',\n "scores": [1]\n}\n', ', "label": "better"}', ',\n "checksum": "0"\n}\n'):
        (folder.path / RECORD).write_text(whole.removesuffix("\n}\n") + added)
        with pytest.raises(CorruptRecordError):
            read_record(folder.path)


def test_a_record_keeps_its_checksum_in_another_layout(tmp_path):
    folder = finished(tmp_path)
    content = json.loads((folder.path / RECORD).read_text())
    indented = json.dumps(content, indent=4)
    for text in (json.dumps(content), indented, indented.replace("\n", "\r\n")):
        (folder.path / RECORD).write_bytes(text.encode())
        assert read_record(folder.path).run_id == RUN_ID
        assert folder.done


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 99}', '{"schema_version": 1, "run_id": "x"}', ""])
def test_a_corrupt_record_is_named(tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(CorruptRecordError, match=r"record\.json"):
        read_record(tmp_path)


def test_a_torn_curve_is_named(tmp_path):
    (tmp_path / CURVE).write_text(json.dumps({"step": 1}) + '\n{"step": 2, "lo')
    with pytest.raises(CorruptRecordError, match=CURVE):
        read_rows(tmp_path / CURVE)


def test_a_file_that_cannot_be_written_whole_stays_what_it_was(tmp_path, monkeypatch):
    write_whole(tmp_path / "file", "before")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file", "after")
    assert (tmp_path / "file").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_are_described_without_the_record_and_what_lies_deeper(tmp_path):
    (tmp_path / RECORD).write_text("{}")
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "deeper").mkdir()
    described = describe_files(tmp_path)
    assert described.keys() == {"a"}
    assert described["a"].bytes == 3
    assert described["a"].sha256.startswith("ba7816bf")


def test_a_link_is_none_of_a_records_files(tmp_path):
    folder = finished(tmp_path)
    (tmp_path / "elsewhere").write_bytes((folder.path / CURVE).read_bytes())
    (folder.path / CURVE).unlink()
    (folder.path / CURVE).symlink_to(tmp_path / "elsewhere")
    assert differing_files(folder.path, read_record(folder.path)) == [CURVE]


def test_times_are_left_out_at_any_depth():
    values = {"seconds": 1, "loss": 2, "phases": [{"peak_bytes": 3, "name": "load"}], "files": {}}
    assert without_timing(values) == {"loss": 2, "phases": [{"name": "load"}]}


def test_a_record_says_which_schema_it_has(tmp_path):
    write_record(tmp_path, a_record())
    assert read_record(tmp_path).schema_version == SCHEMA_VERSION
