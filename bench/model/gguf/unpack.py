"""Unpacks a GGUF file into a folder of the cache, and reads its configuration from there once it is unpacked."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench.model.gguf import tokenizer as tokenizers
from bench.model.gguf.file import metadata_of, unread
from bench.model.gguf.stated import Facts, stated_by
from bench.model.kinds import Kind, auto_class
from bench.process import rng
from bench.process.environment import quiet
from bench.process.hashes import file_sha256, values_sha256
from bench.process.store import Cache

if TYPE_CHECKING:
    from transformers import PretrainedConfig

OFF = Cache(enabled=False, dir=None, max_gb=1.0)
_FACTS = "gguf.json"


def kind_of(file: Path) -> Kind:
    """Encoder-decoder or decoder; an encoder with a classification head is made of either by model.kind=encoder.

    Raises:
        ValueError: it is no GGUF file, or it is cut short.
    """
    return "seq2seq" if metadata_of(file)["general.architecture"] == "t5" else "causal"


def config(file: Path, dtype: str, cache: Cache = OFF) -> PretrainedConfig:
    """The model's configuration: that of the unpacked copy or, if there is none, the one that the metadata state.

    Raises:
        ValueError: as `unpacked`.
    """
    from transformers import AutoConfig

    if (kept := cache.kept_folder(_key(file, dtype))) is not None:
        return AutoConfig.from_pretrained(kept / file.name)
    return AutoConfig.for_model(**stated_by(file).values)


@contextmanager
def unpacked(file: Path, dtype: str, cache: Cache = OFF) -> Iterator[tuple[Path, Facts]]:
    """The model as a folder of configuration, tokenizer and weights; kept in the cache, or deleted at the end.

    Args:
        file: the GGUF file.
        dtype: float32 or bfloat16; of the weights in the folder.
        cache: where the folder is kept, or is already.

    Raises:
        ValueError: no GGUF file, one that is cut short, or one that transformers or this module cannot read.
    """
    title = f"{file.name}, unpacked"
    key, size = _key(file, dtype), 0
    if cache.enabled and cache.kept_folder(key) is None:
        size = {"float32": 4, "bfloat16": 2}[dtype] * stated_by(file).num_weights
    with cache.folder_of(key, title, size, lambda to: _unpack(file, to / file.name, dtype)) as folder:
        facts = Facts(**json.loads((folder / file.name / _FACTS).read_text(encoding="utf-8")))
        yield folder / file.name, facts


def _key(file: Path, dtype: str) -> str:
    """A hash of the file's content and of all that unpacks it."""
    versions = [importlib.metadata.version(name) for name in ("transformers", "tokenizers")]
    code = [file_sha256(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
    return values_sha256([file_sha256(file), dtype, versions, code])


def _unpack(file: Path, to: Path, dtype: str) -> None:
    import torch
    from transformers import GgufConfig

    metadata, stated = metadata_of(file), stated_by(file)
    tokenizer = tokenizers.build(file, metadata)
    with rng.preserved(), quiet("transformers"), unread(file, "its weights cannot be unpacked"):
        model, report = auto_class(kind_of(file)).from_pretrained(
            file.parent,
            gguf_file=file.name,
            config=config(file, dtype),
            quantization_config=GgufConfig(dequantize=True),
            dtype=getattr(torch, dtype),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    shapes = [name for name, *_ in report["mismatched_keys"]]
    if lacking := sorted({*report["missing_keys"], *shapes}):
        raise ValueError(
            f"model.path={file.name}: {len(lacking)} tensors are missing or of another shape than its metadata say "
            f"({', '.join(lacking[:3])}); take another file of this model, or its safetensors (model=local)"
        )
    held, used = stated.num_weights, sum(parameter.numel() for parameter in model.parameters())
    if held != used:
        raise ValueError(
            f"model.path={file.name} holds {held:,} weights, of which transformers' {type(model).__name__} has a place "
            f"for {used:,}; the others would be dropped, so take its safetensors (model=local)"
        )
    model.save_pretrained(to)
    tokenizer.save_pretrained(to)
    tokenizers.check(to, file, metadata)
    (to / _FACTS).write_text(json.dumps(asdict(stated.facts)), encoding="utf-8")
