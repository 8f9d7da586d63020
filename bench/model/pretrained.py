"""What a checkpoint holds of the model that is made of it: only a new head may be lacking."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from bench.model.layers import POOLER, is_classifier

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NAMED = 3  # tensors in a message


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
