"""What a GGUF file states of its model: the configuration, also where transformers leaves the metadata unread."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.model.gguf.file import metadata_of, reader_of, unread
from bench.process.environment import quiet
from bench.process.hashes import file_sha256

_ROPE_FACTORS = "rope_freqs.weight"
# Keys that transformers 5.23 does not read for every architecture, and the fields of configurations that mean the same.
_FIELDS = {
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
# Of Llama 3.1 and 3.2, which publish no other; a file holds the factors that follow, and not these.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@dataclass(frozen=True)
class Facts:
    """What a record says of a GGUF file.

    Attributes:
        file: its name, without the folder.
        sha256: of its content.
        quantization: llama.cpp's name for the mixture of types, such as Q4_K_M.
        tensor_types: number of tensors of each type.
    """

    file: str
    sha256: str
    quantization: str
    tensor_types: dict[str, int]


@dataclass(frozen=True)
class Stated:
    """What a file states: the values of its configuration, the number of its weights, and the facts."""

    values: dict[str, Any]
    num_weights: int
    facts: Facts


def stated_by(file: Path) -> Stated:
    """What the file states; read once a process, which takes seconds."""
    stat = file.stat()
    return _stated_by(file, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _stated_by(file: Path, _size: int, _changed: int) -> Stated:
    from transformers import AutoConfig

    metadata, reader = metadata_of(file), reader_of(file)
    architecture = metadata["general.architecture"]
    if metadata.get("split.count", 1) > 1:
        raise ValueError(
            f"model.path={file.name} is one of {metadata['split.count']} parts of a model, and transformers reads one "
            "file; join them with llama.cpp's `llama-gguf-split --merge`"
        )
    with quiet("transformers"), unread(file, f"its architecture, {architecture}, cannot be read"):
        found = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    values = found.to_dict()
    values.pop("_model_name_or_path", None)  # which is general.name
    own = {key.removeprefix(f"{architecture}."): value for key, value in metadata.items()}
    values |= {field: own[key] for key, field in _FIELDS.items() if key in own and hasattr(found, field)}
    rows = [int(tensor.shape[1]) for tensor in reader.tensors if tensor.name == "token_embd.weight"]
    if rows and hasattr(found, "vocab_size"):
        values["vocab_size"] = rows[0]
    factors = [tensor.data for tensor in reader.tensors if tensor.name == _ROPE_FACTORS]
    if own.get("rope.scaling.type", "none") != "none" or factors:
        values["rope_parameters"] = _rope(file, own, values, factors)
    types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    num_weights = sum(int(tensor.n_elements) for tensor in reader.tensors if tensor.name != _ROPE_FACTORS)
    facts = Facts(file.name, file_sha256(file), _quantization(metadata, types), dict(types.most_common()))
    return Stated(values, num_weights, facts)


def _quantization(metadata: dict[str, Any], types: Counter[str]) -> str:
    """Of general.file_type; of a file without one, its most frequent type."""
    from gguf import LlamaFileType

    names = {int(kind): kind.name for kind in LlamaFileType}
    stated = names.get(metadata.get("general.file_type", -1), types.most_common(1)[0][0])
    return stated.removeprefix("MOSTLY_").removeprefix("ALL_")


def _rope(file: Path, own: dict[str, Any], values: dict[str, Any], factors: list[Any]) -> dict[str, Any]:
    """The rotary embedding's parameters, with the scaling that transformers leaves unread in a GGUF file.

    Llama 3.1's scaling is a tensor of factors in the file. Its parameters are those that give the same factors.

    Raises:
        ValueError: no configuration states this scaling.
    """
    prefix = "rope.scaling."
    said = {key.removeprefix(prefix): value for key, value in own.items() if key.startswith(prefix)}
    scaling, found = said.pop("type", "none"), dict(values.get("rope_parameters") or {})
    said.pop("finetuned", None)
    scaled = found.get("full_attention", found)  # Gemma 3 scales this one of its two
    if scaled.get("rope_type") != "default":
        pass
    elif scaling == "linear" and said.keys() == {"factor"} and not factors:
        scaled |= {"rope_type": "linear", "factor": said["factor"]}
        return found
    elif scaling == "yarn" and said.keys() == {"factor", "original_context_length"} and not factors:
        original = {"original_max_position_embeddings": said["original_context_length"]}
        scaled |= {"rope_type": "yarn", "factor": said["factor"]} | original
        return found
    elif scaling == "none" and factors:
        scaled |= {"rope_type": "llama3", "factor": float(factors[0].max())} | _LLAMA3
        if _same_factors(values | {"rope_parameters": found}, factors[0]):
            return found
    raise ValueError(
        f"model.path={file.name} scales its rotary embedding (rope.scaling.type={scaling}"
        f"{', ' + _ROPE_FACTORS if factors else ''}) in a way that its configuration cannot state; take its "
        "safetensors (model=local)"
    )


def _same_factors(values: dict[str, Any], factors: Any) -> bool:
    import torch
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](AutoConfig.for_model(**values), torch.device("cpu"))
    theta = values["rope_parameters"]["rope_theta"]
    plain = theta ** -(torch.arange(0, 2 * len(scaled), 2).float() / (2 * len(scaled)))
    return len(factors) == len(scaled) and torch.allclose(plain / scaled, torch.tensor(factors), rtol=1e-4)
