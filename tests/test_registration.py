"""What a study asks and how it will answer is fixed before its runs; a later change is named."""

import pytest
from records import make_record

from bench.study.registration import registered, registration

STUDY = "# a comment\ndefaults:\n  - /protocol: standard\nhydra: {sweeper: {params: {method: 'hu,lora_ga'}}}\n"
CLAIMS = "- {id: one, study: s, margin: 1}\n- {id: two, study: other, margin: 1}\n- {id: both, study: [other, s]}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "s.yaml").write_text(STUDY)
    (tmp_path / "experiments" / "_claims.yaml").write_text(CLAIMS)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "experiments"


def changed(folder, name, old, new):
    before = registration("s")
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    after = registration("s")
    return {part for part in before if before[part] != after[part]}


def test_the_studys_file_its_protocol_and_its_own_claims_are_hashed(folder):
    assert list(registration("s")) == ["study", "protocol", "claims"]
    assert changed(folder, "_claims.yaml", "id: one, study: s, margin: 1", "id: one, study: s, margin: 2") == {"claims"}
    assert changed(folder, "_claims.yaml", "id: two, study: other, margin: 1", "id: two, study: other") == set()
    assert changed(folder, "_claims.yaml", "study: [other, s]", "study: [other, third]") == {"claims"}
    assert changed(folder, "s.yaml", "hu,lora_ga", "hu,lora_sb") == {"study"}
    assert changed(folder, "s.yaml", "# a comment\n", "") == set()
    assert registration("missing") == registration(None) == {}


def record(day, **parts):
    made = make_record(f"r{day}", "completed", "hu")
    made.attempts = [{"started": f"2026-11-{day:02}T10:00:00+00:00"}]
    made.registration = parts
    return made


def test_a_report_says_what_was_registered_and_what_changed_since():
    first, same = record(1, study="a", claims="b"), record(2, study="a", claims="b")
    assert registered([same, first], {"study": "a", "claims": "b"}) == (
        "Registered before the first run, 2026-11-01: study a, claims b."
    )
    later = record(3, study="a", claims="c")
    text = registered([first, later, same], {"study": "a", "claims": "c"})
    assert text.endswith("claims b. The claims changed before 1 of 3 runs.")
    assert registered([first], {"study": "z", "claims": "b"}).endswith("The study changed after the last run.")
    assert registered([make_record("old", "completed", "hu")], {"study": "a"}) == ""
