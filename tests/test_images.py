"""Images from a file to a model's input: rows, folders, tables of the Hub, batches; what cannot be used is named."""

import io
from dataclasses import replace
from itertools import pairwise

import datasets
import numpy as np
import pytest
import torch
from architectures import PIXELS as SIDE
from architectures import ZOO
from PIL import Image
from transformers import ViTImageProcessorPil

from bench.model.gradients import rows_mask
from bench.model.images import PIXELS, drawn, image_size, num_patches, opened, pixel_values, written
from bench.model.limits import max_tokens
from bench.model.loss import mean_loss
from bench.model.pieces import Cutter, cut, num_samples
from bench.tasks.data import Carving, Dataset
from bench.tasks.examples import Classification, collate
from bench.tasks.pictures import check_images, folder_sha256, read_folder, read_table
from bench.tasks.reader import Reader
from bench.tasks.source import OFF, of_dataset

PROCESSOR = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})


def noise(*shape, seed=0):
    return np.random.RandomState(seed).randint(256, size=shape).astype(np.uint8)


def file_of(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return written(file.getvalue())


def dataset(folder="pets", num_labels=2, test="test"):
    return Dataset(
        folder=folder,
        fields={"image": "image", "label": tuple(range(num_labels))},
        definitions={"default": "images.yaml"},
        hub=None,
        splits={"train": "train", "test": test},
        rows={},
        classification={"texts": (), "image": "image", "num_labels": num_labels},
    )


@pytest.fixture
def pets(tmp_path):
    """A data.root with cats and dogs: 12 of each to train on, 3 to score, no two alike."""
    for number, (split, name, count) in enumerate(
        [("train", "cat", 12), ("train", "dog", 12), ("test", "cat", 3), ("test", "dog", 3)]
    ):
        (tmp_path / "pets" / split / name).mkdir(parents=True)
        for index in range(count):
            pixels = noise(10, 7, 3, seed=100 * number + index)
            Image.fromarray(pixels).save(tmp_path / "pets" / split / name / f"{index:02}.png")
    return tmp_path


def source(root, **settings):
    uses = frozenset({"train", "validation", "test"})
    return of_dataset("pets", dataset(**settings), "default", root, uses, Carving(6), "test")


# An image as text


@pytest.mark.parametrize("shape", [(5, 9), (5, 9, 3)])
def test_what_is_drawn_is_opened_pixel_for_pixel(shape):
    pixels = noise(*shape)
    assert np.array_equal(np.asarray(opened(drawn(pixels))), pixels)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "RGB"])
def test_a_model_is_given_what_the_rgb_image_gives(mode):
    image = Image.fromarray(noise(20, 13, 3)).convert(mode)
    expected = PROCESSOR(image.convert("RGB"), return_tensors="pt")[PIXELS]
    assert torch.equal(pixel_values(PROCESSOR, [file_of(image)]), expected)
    assert check_images([{"image": file_of(image)}], "image", "pets train") == (mode != "RGB")


def test_a_batch_is_what_the_processor_gives_one_by_one_whichever_processor_was_asked_before():
    texts = [drawn(noise(6, 11, 3, seed=seed)) for seed in range(3)]
    other = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_mean=[0.1, 0.2, 0.3])
    for processor in (PROCESSOR, other, PROCESSOR):
        alone = [processor(opened(text), return_tensors="pt")[PIXELS][0] for text in texts]
        assert torch.equal(pixel_values(processor, texts), torch.stack(alone))


@pytest.mark.parametrize("text", ["", written(b"no image"), file_of(Image.new("RGB", (40, 40)))[:60], "?"])
def test_what_is_no_whole_image_is_refused_in_one_line_that_names_it(text):
    with pytest.raises(ValueError, match=r"^train/cat/3.png: no image can be read \(.+\); replace") as caught:
        check_images([{"image": text, "file": "train/cat/3.png"}], "image", "pets train")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^pets train, row 2: "):
        check_images([{"image": drawn(noise(2, 3))}, {"image": text}], "image", "pets train")


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match=r"no image can be read|0 x 4 pixels"):
        opened(written(b"P5\n0 4\n255\n"))


# Folders and tables


def test_labels_number_the_class_folders_by_name_and_rows_name_their_file(pets):
    rows = [row for _, row in read_folder(pets / "pets", "test", 2, "image")]
    assert [(row["label"], row["file"]) for row in rows[2:4]] == [(0, "test/cat/02.png"), (1, "test/dog/00.png")]
    assert np.array_equal(np.asarray(opened(rows[3]["image"])), noise(10, 7, 3, seed=300))
    assert len([*read_folder(pets / "pets", "train+test", 2, "image")]) == 30


def test_files_that_are_no_images_and_hidden_ones_are_passed_over(pets):
    (pets / "pets" / "test" / "cat" / "notes.txt").write_text("no image")
    (pets / "pets" / "test" / "cat" / ".hidden.png").write_bytes(b"")
    (pets / "pets" / ".cache").mkdir()
    assert len([*read_folder(pets / "pets", "test", 2, "image")]) == 6


def test_the_identity_of_a_folder_is_its_content_and_not_its_place(pets):
    before, copy = folder_sha256(pets / "pets", "test"), pets / "elsewhere"
    (pets / "pets").rename(copy)
    assert folder_sha256(copy, "test") == before
    Image.fromarray(noise(10, 7, 3, seed=7)).save(copy / "test" / "cat" / "00.png")
    assert folder_sha256(copy, "test") != before


def test_a_class_folder_that_only_one_split_has_is_named(pets):
    (pets / "pets" / "test" / "emu").mkdir()
    with pytest.raises(ValueError, match=r"pets has class folder emu in test and not in train; every split"):
        source(pets).rows  # noqa: B018


def test_another_number_of_classes_than_the_heads_is_refused(pets):
    with pytest.raises(ValueError, match=r"has 2 class folders \(cat, dog, ...\) and the head .*num_labels=3; set"):
        source(pets, num_labels=3).rows  # noqa: B018


def test_a_missing_split_is_named_with_what_is_there(pets):
    with pytest.raises(ValueError, match=r"pets has no eval split: .*eval does not exist \(\['test', 'train'\]\)"):
        source(pets, test="eval").rows  # noqa: B018


@pytest.mark.parametrize("content", [b"", b"\x89PNG broken"])
def test_a_broken_or_empty_file_is_named_when_rows_are_read(pets, compose_run, content):
    (pets / "pets").rename(pets / "cifar10")
    for number in range(2, 10):
        for split in ("train", "test"):
            (pets / "cifar10" / split / f"x{number}").mkdir()
    (pets / "cifar10" / "test" / "dog" / "01.png").write_bytes(content)
    task = compose_run("task=cifar10", "model=tiny_vit", f"data.root={pets}").task
    few = {"validation_samples": 4, "calibration_samples": 2, "calibration_batch_size": 2, "probe_samples": 1}
    with pytest.raises(ValueError, match=r"test/dog/01\.png: (no image can be read|image='')"):
        replace(task, **few).read("test", True)


def test_grey_images_are_counted_over_all_splits(pets):
    for split in ("train", "test"):
        Image.new("L", (4, 4), 9).save(pets / "pets" / split / "cat" / "grey.png")
    assert source(pets).known(OFF).num_converted == 2


def test_splits_of_a_folder_are_carved_without_overlap_and_equal_images_are_counted_as_contamination(pets):
    made = source(pets)
    images = {split: [row["image"] for row in rows] for split, rows in made.rows.items()}
    assert {split: len(rows) for split, rows in images.items()} == {"train": 18, "validation": 6, "test": 6}
    assert len({*images["train"], *images["validation"], *images["test"]}) == 30
    assert made.contaminated_by([made], "test") == 0
    first = next((pets / "pets" / "test" / "cat").glob("*.png"))
    first.write_bytes((pets / "pets" / "train" / "dog" / "05.png").read_bytes())
    again = source(pets)
    assert again.contaminated_by([again], "test") == ("05.png" in {row["file"][-6:] for row in again.rows["train"]})


def test_a_table_of_the_hub_gives_its_files_under_the_datasets_own_names():
    pixels = [noise(4, 6, 3, seed=seed) for seed in range(2)]
    images = [Image.fromarray(one) for one in pixels]
    table = datasets.Dataset.from_dict({"img": images, "fine_label": [7, 3], "coarse_label": [0, 0]})
    columns = {"image": "img", "label": "fine_label"}
    rows = [*read_table(table, columns, ["image", "label"], "image")]
    assert [{*row} for row in rows] == [{"image", "label"}] * 2
    assert [row["label"] for row in rows] == [7, 3]
    assert all(np.array_equal(np.asarray(opened(row["image"])), one) for row, one in zip(rows, pixels, strict=True))


def test_a_classification_is_of_texts_or_of_an_image():
    for texts, image in (((), None), (("sentence",), "image")):
        with pytest.raises(ValueError, match="say which texts, or which image"):
            Classification(texts, 2, image)


# Tasks and models


def test_texts_for_a_vision_model_and_images_for_a_language_model_are_refused_when_a_run_is_composed(compose_run):
    with pytest.raises(ValueError, match=r"^task=gsm_tiny does not fit a vision model, .*: gsm_tiny has texts; take"):
        compose_run("model=tiny_vit")
    with pytest.raises(ValueError, match=r"^task=glue_tiny does not fit a vision model"):
        compose_run("model=tiny_vit", "task=glue_tiny")
    with pytest.raises(
        ValueError, match=r"^task=digits does not fit a model of kind causal, .*digits has images; take"
    ):
        compose_run("task=digits")
    with pytest.raises(ValueError, match=r"^task=digits does not fit a model of kind encoder"):
        compose_run("task=digits", "model=roberta_base", "train.learning_rate=1e-3")


def test_a_scored_dataset_of_other_labels_than_the_heads_is_refused(compose_run):
    task = compose_run("task=digits", "model=tiny_vit").task
    other = replace(task, datasets=task.datasets | {"pets": dataset()}, score=("pets",))
    with pytest.raises(ValueError, match="does not fit a vision model, which has one classification head"):
        other.check("vision")


def batch_of(number):
    rows = [{"image": drawn(noise(9, 12, 3, seed=seed)), "label": seed % 3} for seed in range(number)]
    form = Classification((), 3, "image")
    return collate(Reader(PROCESSOR, "vision", 16).classified(rows, form), 0)


def test_a_batch_of_images_is_cut_into_pieces_that_hold_each_once_and_whose_losses_make_its_own():
    model, batch = ZOO["vit"].build(), batch_of(7)
    cutter = Cutter(model)
    cutter.most_tokens = 40  # of 16 patches: two images a pass
    pieces = cutter.pieces(batch)
    assert sorted(map(num_samples, pieces)) == [1, 2, 2, 2]
    together = sum(mean_loss(model, piece) * num_samples(piece) for piece in pieces) / 7
    torch.testing.assert_close(together, mean_loss(model, batch))
    seen = torch.cat([piece[PIXELS] for piece in pieces])
    assert {image.sum().item() for image in seen} == {image.sum().item() for image in batch[PIXELS]}
    assert torch.equal(cut(batch, [4, 1])[PIXELS], batch[PIXELS][[4, 1]])


@pytest.mark.parametrize(("name", "patches"), [("vit", 16), ("swin", 16), ("dinov2", 16), ("resnet", 1)])
def test_an_image_has_as_many_tokens_as_patches(name, patches):
    config = ZOO[name].build().config
    assert max_tokens(config, PROCESSOR) == num_patches(config, image_size(PROCESSOR)) == patches
    assert num_patches(config, (2 * SIDE, SIDE)) == 2 * patches


def test_every_row_of_an_image_counts_and_rows_that_are_of_no_image_have_no_mask():
    model, batch = ZOO["swin"].build(), batch_of(3)
    assert rows_mask(model, "layer", torch.Size((3, 17)), batch).shape == (3, 17)
    assert rows_mask(model, "layer", torch.Size((12, 4)), batch).shape == (3, 16)  # four windows an image
    assert rows_mask(model, "layer", torch.Size((4,)), batch) is None


# What needs no file


@pytest.mark.parametrize("name", ["digits", "glyphs_tiny"])
def test_every_label_of_the_installed_images_occurs_in_every_split(name):
    from bench.model.embedded import items

    for rows in items.splits(name).values():
        assert {row["label"] for row in rows} == set(range(10))


def test_the_digits_are_scikit_learns_each_once():
    from sklearn.datasets import load_digits

    from bench.model.embedded import items

    data, rows = load_digits(), [row for split in items.splits("digits").values() for row in split]
    assert len(rows) == len(data.target) == 1797
    ours = sorted((row["label"], *np.asarray(opened(row["image"])).ravel().tolist()) for row in rows)
    grey = np.rint(data.images * 255 / 16).astype(int)
    assert ours == sorted((int(label), *one.ravel().tolist()) for label, one in zip(data.target, grey, strict=True))


def test_signs_of_the_task_are_none_of_pretrainings_and_no_two_are_alike():
    from bench.model.embedded.image_items import PRETRAINED_SIGNS, SIGNS

    strokes = [frozenset(map(frozenset, pairwise(sign))) for sign in (*SIGNS, *PRETRAINED_SIGNS)]
    assert len(set(strokes)) == len(strokes) == 26


@pytest.mark.parametrize("number", range(8))
def test_shapes_and_textures_are_shares_of_a_pixel_and_no_two_kinds_look_alike(number):
    from bench.model.embedded.drawing import SIZE, shape, texture

    for draw in (shape, texture):
        share = draw(np.random.RandomState(number), number)
        assert share.shape == (SIZE, SIZE)
        assert 0 <= share.min() < share.max() <= 1
        other = draw(np.random.RandomState(number), (number + 1) % 8)
        assert np.abs(share - other).mean() > 0.01
