"""Reads a checkpoint, and judges what it holds of the model that is made of it: only a new head may be lacking."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from bench.model.kinds import Kind, auto_class
from bench.model.layers import POOLER, is_classifier
from bench.process.validation import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import BaseImageProcessor, PreTrainedModel

_NAMED = 3  # tensors in a message


def read_processor(where: Path | str, revision: str | None, kind: Kind, path: str) -> Any:
    """The tokenizer of a folder or a repository, that of a decoder padding on the left; or its image processor.

    Args:
        where: the folder, or the name of the repository.
        revision: of the repository.
        kind: of the model.
        path: for the message.

    Raises:
        ValueError: there is none that can be loaded. What the Hub raises is left as it is.
    """
    from transformers import AutoTokenizer

    if kind == "vision":
        return _image_processor(where, revision, path)
    side = {"padding_side": "left"} if kind == "causal" else {}
    try:
        return AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False, **side)
    except ValueError as error:  # transformers', which lists what it has tried
        raise ValueError(
            f"model {path} has no tokenizer that can be loaded: {one_line(error).rstrip(': ')}; save it "
            "beside the weights with save_pretrained"
        ) from error


def _image_processor(where: Path | str, revision: str | None, path: str) -> BaseImageProcessor:
    """The image processor, which resizes with Pillow on every machine."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(where, revision=revision, backend="pil", trust_remote_code=False)
    except ValueError as error:
        raise ValueError(
            f"model {path} has no image processor that can be loaded: {one_line(error)}; save it beside the weights "
            "with save_pretrained"
        ) from error


def read_weights(
    where: Path | str, revision: str | None, kind: Kind, path: str, **settings: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model of a folder or a repository, and transformers' report, which `drawn_tensors` judges.

    Args:
        where, revision, kind, path: as `read_processor` takes them.
        settings: further arguments of from_pretrained.

    Raises:
        ValueError: a file is torn, or the tensors cannot be put together. What the Hub raises, and what transformers
            makes of an attention that a model does not have, is left as it is.
    """
    from safetensors import SafetensorError

    try:
        return auto_class(kind).from_pretrained(
            where,
            revision=revision,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **settings,
        )
    except SafetensorError as error:
        raise ValueError(
            f"model.path={path}: a file of its weights is torn ({one_line(error)}); copy or download it again"
        ) from error
    except RuntimeError as error:  # transformers', where one of several experts is lacking or of another shape
        raise ValueError(
            f"model.path={path}: its weights cannot be put together to the model of its config.json, because some are "
            f"missing or of another shape ({one_line(error)}); save the plain model again with save_pretrained"
        ) from error


def drawn_tensors(model: PreTrainedModel, report: Mapping[str, Collection[Any]], path: str) -> list[str]:
    """Judges transformers' report on loading; returns the names of the head's tensors, which it drew at random.

    A classifier's head is what lies beside the pretrained model, and the pooler. The checkpoint may lack it, have one
    of another number of labels, or have other heads of the same model. A language model must be complete.

    Args:
        model: the loaded model.
        report: `output_loading_info` of from_pretrained; keys that the architecture declares are not in it.
        path: for the message.

    Raises:
        ValueError: other weights are missing, of another shape, or not of this model.
    """
    missing = set(report["missing_keys"])
    shapes = {name: f"{name} {tuple(found)} for {tuple(own)}" for name, found, own in report["mismatched_keys"]}
    lacking = [name for name in missing if not _is_head(model, name)]
    lines = {
        "are missing": lacking,
        "are of another shape": [text for name, text in shapes.items() if not _is_head(model, name)],
        "are not of this model": [name for name in report["unexpected_keys"] if lacking or not _is_head(model, name)],
    }
    wrong = [f"{len(names)} tensors {what} ({_listed(names)})" for what, names in lines.items() if names]
    if wrong:
        raise ValueError(
            f"model.path={path}: its weights are not those of the {type(model).__name__} in its config.json: "
            f"{'; '.join(wrong)}; save the plain model again with save_pretrained"
        )
    return sorted(missing | shapes.keys())


def _is_head(model: PreTrainedModel, name: str) -> bool:
    """Whether a tensor of the model, or of its checkpoint, belongs to a classification head."""
    if not is_classifier(model):
        return False
    path = name.removeprefix(f"{model.base_model_prefix}.").split(".")
    own = {key.partition(".")[0] for key, _ in model.base_model.named_parameters()}
    return POOLER in path or path[0] not in own


def _listed(names: Collection[str]) -> str:
    shown = sorted(names)[:_NAMED]
    return ", ".join(shown + (["..."] if len(names) > len(shown) else []))
