import json

import pytest
from pydantic import ValidationError

from bench.tasks.contamination import contaminated
from bench.tasks.data import Carving, Dataset, HubDataset, Splits, carve
from bench.tasks.examples import Classification
from bench.tasks.fields import problem, row_validator
from bench.tasks.jsonl import read_jsonl

HUB = HubDataset("nobody/words", None, "main")


def dataset(train="train", test="validation", rows=None, hub=HUB, classification=None):
    fields, definitions = {"sentence": "text", "label": (0, 1)}, {"default": "glue/sst2/default.yaml"}
    return Dataset("words", fields, definitions, hub, Splits(train, test), rows or {}, classification)


def write(root, split, rows, folder="words"):
    (root / folder).mkdir(exist_ok=True)
    path = root / folder / f"{split}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(number, word="word"):
    return [{"sentence": f"{word} {i}", "label": i % 2} for i in range(number)]


@pytest.fixture
def root(tmp_path):
    write(tmp_path, "train", rows_of(20))
    write(tmp_path, "validation", rows_of(5, "other"))
    return tmp_path


def test_train_selection_and_the_reported_split_are_read_apart(root):
    found = dataset().load(root, {"train", "validation", "test"}, Carving(validation=4)).by_split
    assert {split: len(rows) for split, rows in found.items()} == {"train": 16, "validation": 4, "test": 5}
    sentences = [row["sentence"] for rows in found.values() for row in rows]
    assert len(set(sentences)) == 25


def test_a_run_that_trains_nothing_needs_no_training_split(root):
    (root / "words" / "train.jsonl").unlink()
    found = dataset().load(root, {"test"}, Carving(validation=4)).by_split
    assert list(found) == ["test"]
    assert dataset().content(root, {"test"}).keys() == {"test"}


def test_a_missing_split_is_named_with_where_to_get_it(root):
    (root / "words" / "train.jsonl").unlink()
    message = r"words has no train split: .*train\.jsonl does not exist .*huggingface\.co/datasets/nobody/words"
    with pytest.raises(ValueError, match=message):
        dataset().load(root, {"train"}, Carving(validation=4))
    with pytest.raises(ValueError, match=message):
        dataset().content(root, {"train", "test"})


def test_an_incomplete_split_is_named_and_used(root):
    official = {"train": 30, "validation": 5}
    found = dataset(rows=official).load(root, {"train", "test"}, Carving(validation=4))
    assert found.incomplete == ["words train: 20 of 30 rows"]
    assert len(found.by_split["train"]) == 16
    assert not dataset(rows={"train": 20}).load(root, {"train", "test"}, Carving(validation=4)).incomplete


def test_a_wrong_field_name_is_named_with_what_was_expected(root):
    rows = [*rows_of(2), {"text": "x", "label": 0}]
    write(root, "validation", rows)
    with pytest.raises(ValueError, match=r"jsonl:3 has no sentence, but label, text; expected are sentence, label"):
        dataset().load(root, {"test"}, Carving(validation=4))


def test_an_empty_split_is_refused(root):
    write(root, "validation", [])
    with pytest.raises(ValueError, match=r"validation\.jsonl is empty; it is published at"):
        dataset().load(root, {"test"}, Carving(validation=4))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": ', "is not JSON"),
        (b"[1]", "is not a JSON object"),
        ('{"a": "caf\u00e9"}'.encode("latin1"), r"is not UTF-8, byte 0xe9; .* iconv -f latin1 -t utf-8 x\.jsonl"),
        ('{"a": "b"}'.encode("utf-16"), "is not UTF-8, byte 0xff"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "is not JSON: the key 'c' is given twice"),
        (rb'{"a": "\ud83d"}', "is not JSON: .*surrogates not allowed"),
    ],
)
def test_a_line_that_is_no_row_is_refused_by_its_number_in_one_line(tmp_path, line, message):
    (tmp_path / "x.jsonl").write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(ValueError, match=rf"x\.jsonl:2 {message}") as refused:
        list(read_jsonl(tmp_path / "x.jsonl"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "written",
    [
        b'\xef\xbb\xbf{"a": "1"}\n{"a": "\xc3\xa9"}',
        b'{"a": "1"}\r\n{"a": "\\u00e9"}\r\n',
        b'{"a": "1"}\n{"a": "\xc3\xa9"}\n \n\n',
    ],
    ids=["byte-order mark and no last line feed", "CRLF", "blank last lines"],
)
def test_what_editors_add_to_a_file_changes_no_row(tmp_path, written):
    (tmp_path / "x.jsonl").write_bytes(written)
    assert list(read_jsonl(tmp_path / "x.jsonl")) == [(1, {"a": "1"}), (2, {"a": "\u00e9"})]


def test_a_row_after_a_blank_line_keeps_the_number_of_its_line(root):
    (root / "words" / "validation.jsonl").write_text('{"sentence": "a", "label": 0}\n\n{"sentence": "b"}\n')
    with pytest.raises(ValueError, match=r"validation\.jsonl:3 has no label"):
        dataset().load(root, {"test"}, Carving(validation=4))


@pytest.mark.parametrize(
    ("holds", "values"),
    [
        ("text", ["a", " b\n", "0", "1", "2"]),
        ("text_or_empty", ["a", "", " ", " b\n", "0", "1", "2"]),
        ("texts", [[], ["a", ""], ["a"], ["a", "b", "c", ""]]),
        ("four_texts", [["a", "b", "c", ""]]),
        ("number", [0, 1, -1, 4, 3.8, 0.0, 0.7, -1.0]),
        ((0, 1), [0, 1]),
        (("1", "2"), ["1", "2"]),
        (("0", 0), ["0", 0]),
    ],
)
def test_a_field_holds_what_is_declared_and_nothing_that_could_be_converted_to_it(holds, values):
    texts = ["a", "", " ", " b\n", "0", "1", "2"]
    numbers = [0, 1, -1, 4, 3.8, 0.0, 0.7, -1.0, float("nan"), float("inf"), True, False]
    others = [None, [], ["a", None], ["a", ""], ["a"], ["a", "b", "c", ""], ["a", "b", "c", 4], {"a": "b"}]
    validator = row_validator({"it": holds})

    def takes(value):
        return validator.isinstance_python({"it": value, "other": None})

    assert list(map(repr, filter(takes, [*texts, *numbers, *others]))) == list(map(repr, values))


SCIENCE = {"choices": {"text": ["iron", "water"], "label": ["A", "B"]}, "answerKey": "B"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"answerKey": "C"}, "answerKey='C' is none of the choices A, B"),
        (
            {"choices": {"text": ["iron"], "label": ["A", "B"]}},
            "choices={'text': ['iron'], 'label': ['A', 'B']}: must have as many labels as texts",
        ),
        (
            {"choices": {"text": ["iron", None], "label": ["A", "B"]}},
            "choices.text.1=None: must be a text that is not ",
        ),
        ({"choices": None}, "choices=None: Input should be a valid dictionary"),
        ({"choices": {"text": ["iron"]}}, "choices.label={'text': ['iron']}: Field required"),
    ],
)
def test_an_answer_is_one_of_its_rows_choices(change, message):
    validator = row_validator({"choices": "choices", "answerKey": "choice"})
    if message is None:
        assert validator.validate_python(SCIENCE) == SCIENCE
        return
    with pytest.raises(ValidationError) as refused:
        validator.validate_python(SCIENCE | change)
    assert problem(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"label": "0"}, "label='0': must be 0 or 1"),
        ({"label": 0.0}, r"label=0\.0: must be 0 or 1"),
        ({"label": 0.7}, r"label=0\.7: must be 0 or 1"),
        ({"label": False}, "label=False: must be 0 or 1"),
        ({"label": -1}, "label=-1: must be 0 or 1"),
        ({"label": None}, "label=None: must be 0 or 1"),
        ({"sentence": None}, "sentence=None: must be a text that is not empty"),
        ({"sentence": " "}, "sentence=' ': must be a text that is not empty"),
        ({"sentence": 3}, "sentence=3: must be a text that is not empty"),
    ],
)
@pytest.mark.parametrize("use", ["train", "validation", "test"])
def test_an_odd_value_is_refused_in_every_split_from_a_file_and_from_the_hub_alike(root, monkeypatch, use, wrong, said):
    import datasets

    split = "validation" if use == "test" else "train"
    rows = [*rows_of(6), {"sentence": "good", "label": 1} | wrong]
    write(root, split, rows)
    with pytest.raises(ValueError, match=rf"words/{split}\.jsonl:7: {said}; correct the row or leave it out"):
        dataset().load(root, {use}, Carving(validation=2))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    hub = HubDataset("nobody/words", ("a", "b"), "main")
    with pytest.raises(ValueError, match=rf"nobody/words a {split}, row 7: {said}; correct the row or leave it out"):
        dataset(hub=hub).load(None, {use}, Carving(validation=2))


def test_a_classifications_labels_are_declared_as_its_head_numbers_them():
    def declared(label, num_labels):
        fields = {"sentence": "text", "label": label}
        classification = Classification(("sentence",), num_labels)
        return Dataset("words", fields, {}, HUB, Splits("train", None), {}, classification)

    assert declared((0, 1), 2).fields["label"] == (0, 1)
    assert declared("number", 1).classification.label({"label": 4}) == 4.0
    for label, num_labels in (((0, 1), 3), (("0", "1"), 2), ("text", 2), ((0,), 1)):
        with pytest.raises(ValidationError, match=rf"num_labels={num_labels}: fields\.label must be"):
            declared(label, num_labels)


def test_a_carved_split_is_fixed_disjoint_and_complete():
    train = [{"id": i} for i in range(50)]
    carved = carve(train, Carving(validation=10), with_test=True, name="words")
    assert carved == carve(train, Carving(validation=10), with_test=True, name="words")
    assert {split: len(rows) for split, rows in carved.items()} == {"validation": 10, "test": 10, "train": 30}
    assert sorted(row["id"] for rows in carved.values() for row in rows) == list(range(50))


def test_the_first_so_many_rows_remain_whole_and_selection_comes_from_the_others():
    train = [{"id": i} for i in range(50)]
    carved = carve(train, Carving(validation=10, train=30), with_test=False, name="words")
    assert [row["id"] for row in carved["train"]] == list(range(30))
    assert all(row["id"] >= 30 for row in carved["validation"])


def test_sampled_rows_are_another_choice_that_is_always_the_same():
    train = [{"id": i} for i in range(50)]
    carving = Carving(validation=10, train=30, sampling="random")
    drawn = [row["id"] for row in carve(train, carving, with_test=False, name="words")["train"]]
    assert drawn == [row["id"] for row in carve(train, carving, with_test=False, name="words")["train"]]
    assert len(set(drawn)) == 30
    assert drawn != list(range(30))


def test_where_few_rows_are_left_over_selection_is_taken_from_those_trained_on():
    carved = carve([{"id": i} for i in range(50)], Carving(validation=10, train=45), with_test=False, name="words")
    assert len(carved["validation"]) == 10
    assert not {row["id"] for row in carved["train"]} & {row["id"] for row in carved["validation"]}


def test_a_selection_split_larger_than_train_is_refused():
    with pytest.raises(ValueError, match="validation_samples=3 leaves nothing of 3 training rows of words"):
        carve([{}] * 3, Carving(validation=3), with_test=False, name="words")


def test_without_a_reported_split_one_is_carved(root):
    found = dataset(test=None).load(root, {"train", "test"}, Carving(validation=4)).by_split
    assert {split: len(rows) for split, rows in found.items()} == {"train": 12, "test": 4}


def test_a_dataset_that_is_only_scored_cannot_be_trained_on(root):
    with pytest.raises(ValueError, match="words has no train split; it can be scored, not trained on"):
        dataset(train=None).load(root, {"train"}, Carving(validation=4))


def test_the_content_of_a_local_folder_is_its_bytes_whatever_it_is_called(root, tmp_path_factory):
    import shutil

    other = tmp_path_factory.mktemp("elsewhere") / "moved"
    shutil.copytree(root, other)
    assert dataset().content(root, {"train", "test"}) == dataset().content(other, {"train", "test"})
    write(other, "train", rows_of(21))
    assert dataset().content(root, {"train"}) != dataset().content(other, {"train"})


def test_several_subsets_of_the_hub_follow_one_another(monkeypatch):
    import datasets

    asked = []

    def load_dataset(path, name, revision, split, cache_dir):
        asked.append((path, name, revision, split))
        assert cache_dir.endswith("/abc")
        return datasets.Dataset.from_list([{"sentence": name, "label": 1}] * 2)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub = HubDataset("nobody/words", ("a", "b"), "abc")
    found = dataset(hub=hub).load(None, {"test"}, Carving(validation=1)).by_split["test"]
    assert [row["sentence"] for row in found] == ["a", "a", "b", "b"]
    assert asked == [("nobody/words", "a", "abc", "validation"), ("nobody/words", "b", "abc", "validation")]


LONG = "What is the name of the only man on the moon?"


@pytest.mark.parametrize(
    ("tested", "trained", "found"),
    [
        (LONG, "So: what IS the name of the only man, on the moon... Answer: Bob", True),
        (LONG, "What is the name of the only man on the sun?", False),
        (LONG, "name of the only man on the moon?", False),
        ("It works.", "it works", True),
        ("It works.", "And it works well, they say, in all the weathers of the world", False),
    ],
)
def test_an_item_is_contaminated_if_its_words_occur_in_a_training_text(tested, trained, found):
    assert contaminated(["something else entirely", tested], ["noise", trained]) == ([1] if found else [])


def test_each_item_is_counted_once_and_equal_items_each():
    assert contaminated([LONG, LONG], [LONG, LONG]) == [0, 1]
