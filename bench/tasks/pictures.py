"""Rows of image datasets: local folders SPLIT/CLASS/FILE, and tables of the Hub whose columns hold image files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.model.images import opened, written
from bench.process.hashes import file_sha256, values_sha256
from bench.tasks.jsonl import Row

if TYPE_CHECKING:
    from datasets import Dataset as Table

ENDINGS = frozenset(".png .jpg .jpeg .bmp .gif .webp .tif .tiff .ppm .pgm".split())
MODEL_MODE = "RGB"  # Pillow's name for three channels of eight bits


def parts(split: str) -> list[str]:
    """The folders of a split; several are joined by a plus: "photo+sketch"."""
    return split.split("+")


def files(folder: Path, split: str) -> list[Path]:
    """The image files of a split, by folder, class and name; other files are passed over.

    Args:
        folder: holds the splits.
        split: one folder of it, or several.
    """
    found = (path for part in parts(split) for path in sorted((folder / part).glob("*/*")))
    return [path for path in found if path.suffix.lower() in ENDINGS and not path.name.startswith(".")]


def folder_sha256(folder: Path, split: str) -> str:
    """A hash of the names and contents of a split's images, whatever the place of the folder."""
    return values_sha256([[path.relative_to(folder).as_posix(), file_sha256(path)] for path in files(folder, split)])


def read_folder(folder: Path, split: str, num_labels: int, field: str) -> Iterator[tuple[str, Row]]:
    """The images of a split as rows, each with its file's path; labels number the class folders by name, from 0.

    Args:
        folder: holds the splits.
        split: one folder of it, or several.
        num_labels: of the dataset's classification.
        field: that holds the image; the others are `label` and `file`, its path below the folder.

    Raises:
        ValueError: there are other classes in another split, or not as many as num_labels.
    """
    classes = {one.name: _subfolders(one) for one in sorted(folder.iterdir()) if _is_folder(one)}
    named = sorted(set().union(*classes.values()))
    for name in named:
        if lacking := [one for one, own in classes.items() if name not in own]:
            having = [one for one in classes if one not in lacking]
            raise ValueError(
                f"{folder} has class folder {name} in {', '.join(having)} and not in {', '.join(lacking)}; every split "
                "must have the same classes: add the folder, or move what is no split elsewhere"
            )
    if len(named) != num_labels:
        raise ValueError(
            f"{folder} has {len(named)} class folders ({', '.join(named[:3])}, ...) and the head "
            f"classification.num_labels={num_labels}; set task.datasets.NAME.classification.num_labels and fields.label"
        )
    for path in files(folder, split):
        row = {field: written(path.read_bytes()), "label": named.index(path.parent.name)}
        yield str(path), row | {"file": path.relative_to(folder).as_posix()}


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _subfolders(path: Path) -> set[str]:
    return {one.name for one in path.iterdir() if _is_folder(one)}


def read_table(table: Table, columns: Mapping[str, str], fields: Sequence[str], field: str) -> Iterator[Row]:
    """The rows of a table of the Hub, with its image files as text.

    Args:
        table: one split, as datasets loads it.
        columns: field -> the column that holds it under another name.
        fields: to be read.
        field: that holds the image.
    """
    from datasets import Image

    table = table.rename_columns({column: name for name, column in columns.items()}).select_columns(list(fields))
    for row in table.cast_column(field, Image(decode=False)):
        file = row[field]
        yield row | {field: written(file["bytes"] or Path(file["path"]).read_bytes())}


def check_images(rows: Iterable[Row], field: str, split: str) -> int:
    """Reads every image, and counts those that become RGB: grey ones, and those with a palette or transparency.

    Args:
        rows: of one split.
        field: that holds the image.
        split: its dataset and name, for the message.

    Raises:
        ValueError: an image cannot be read, or has no pixels; the message names the file or the row.
    """
    number = 0
    for index, row in enumerate(rows, 1):
        try:
            number += opened(row[field]).mode != MODEL_MODE
        except ValueError as error:
            where = row.get("file", f"{split}, row {index}")
            raise ValueError(f"{where}: {error}; replace the file, or leave it out") from None
    return number
