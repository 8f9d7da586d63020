"""The figures inside the page: PNG files as data URIs, each with its caption."""

from __future__ import annotations

import base64
import html
import struct
from pathlib import Path
from urllib.parse import quote

_PNG_SIZE = slice(16, 24)  # of the IHDR chunk, which stands first: https://www.w3.org/TR/png-3/#11IHDR
# What each of bench.report.figures shows, by the first part of its file's name; another has its name alone.
CAPTIONS = {
    "convergence": "Training and eval loss against step, tokens and seconds, initialisation included; mean over "
    "seeds and their range",
    "target": "What it takes to reach an eval loss: the seeds, their median and range",
    "rates": "Score on the validation split against learning rate; the best of each method is marked",
    "alignment": "Cosine of the induced and the full gradient, and captured energy, against step",
    "layers": "Cosine of the induced and the full gradient of each layer at each step; mean over seeds",
    "features": "Norms of the features behind A and behind B against step; means over tokens and layers",
    "score": "Score against trainable parameters, with 95 % intervals",
    "cost": "Seconds and peak memory of initialisation",
}


def figure(path: Path, folder: Path) -> str:
    """The markup of one; a .pdf and .csv of the same name below the page's folder are linked to."""
    content = path.read_bytes()
    width, height = struct.unpack(">II", content[_PNG_SIZE])
    caption = html.escape(_caption(path.stem))
    links = "".join(
        f' <a href="{html.escape(quote(other.relative_to(folder).as_posix()))}">{kind}</a>'
        for kind, other in (("PDF", path.with_suffix(".pdf")), ("data (CSV)", path.with_suffix(".csv")))
        if other.is_relative_to(folder) and other.is_file()
    )
    return (
        f'<figure><button type="button" class="enlarge" aria-label="Enlarge: {caption}">'
        f'<img loading="lazy" alt="{caption}" width="{width}" height="{height}" '
        f'src="data:image/png;base64,{base64.b64encode(content).decode()}"></button>'
        f"<figcaption>{caption}.{links}</figcaption></figure>"
    )


def _caption(stem: str) -> str:
    kind, _, where = stem.partition("-")
    if kind not in CAPTIONS:
        return stem.replace("_", " ")
    return f"{CAPTIONS[kind]} ({where.replace('-', ', ', 1)})" if where else CAPTIONS[kind]
