import json

import pytest

from bench.record import (
    COMPLETED,
    CURVE,
    FAILED,
    WEIGHTS,
    CorruptRecordError,
    Record,
    RunFolder,
    check_writable,
    read_record,
    read_rows,
)


def a_record(status=COMPLETED):
    return Record("hu-1", status, "LoRA", {"seed": 0}, {"seed": 0}, {"fingerprint": "f"})


def finished(root, status=COMPLETED, weights=True):
    folder = RunFolder(root, "study", "hu-1")
    with folder:
        folder.append(CURVE, [{"step": 1, "loss": 2.5}])
        if weights:
            folder.weights_path.write_bytes(b"")
        folder.close(a_record(status), [{"task": "t", "doc_id": 0}])
    return folder


def test_a_record_comes_back_as_it_was_written(tmp_path):
    folder = finished(tmp_path)
    assert read_record(folder.path) == a_record()
    assert read_rows(folder.path / CURVE) == [{"step": 1, "loss": 2.5}]
    assert read_rows(folder.path / "outcomes.jsonl.gz") == [{"task": "t", "doc_id": 0}]


def test_a_folder_is_done_only_with_a_completed_record_and_its_weights(tmp_path):
    assert not RunFolder(tmp_path, "study", "hu-1").done
    assert finished(tmp_path).done
    assert not finished(tmp_path, FAILED).done
    folder = finished(tmp_path)
    (folder.path / WEIGHTS).unlink()
    assert not folder.done


def test_an_interrupted_run_leaves_nothing(tmp_path):
    folder = RunFolder(tmp_path, "study", "hu-1")
    with pytest.raises(KeyboardInterrupt), folder:  # noqa: PT012  the context is what is tested
        folder.append(CURVE, [{"step": 1}])
        raise KeyboardInterrupt
    assert list((tmp_path / "study").iterdir()) == []


def test_an_interrupted_run_leaves_the_earlier_one_as_it_was(tmp_path):
    folder = finished(tmp_path)
    with pytest.raises(KeyboardInterrupt), folder:
        raise KeyboardInterrupt
    assert folder.done


def test_equal_outcomes_are_equal_bytes(tmp_path):
    one, two = finished(tmp_path / "a"), finished(tmp_path / "b")
    assert (one.path / "outcomes.jsonl.gz").read_bytes() == (two.path / "outcomes.jsonl.gz").read_bytes()


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 99}', '{"schema_version": 1, "run_id": "x"}', ""])
def test_a_corrupt_record_is_named(tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(CorruptRecordError, match=r"record\.json"):
        read_record(tmp_path)


def test_a_torn_curve_is_named(tmp_path):
    (tmp_path / CURVE).write_text(json.dumps({"step": 1}) + '\n{"step": 2, "lo')
    with pytest.raises(CorruptRecordError, match=CURVE):
        read_rows(tmp_path / CURVE)


def test_a_results_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        check_writable(tmp_path / "file" / "results")
