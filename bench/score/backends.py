"""lm-eval's LM for each kind of model and backend."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bench.model.kinds import CLASSIFIERS
from bench.model.limits import max_tokens

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from torch import nn
    from transformers import GenerationConfig

    from bench.model.load import LoadedModel
    from bench.score.settings import Scoring
    from bench.tasks.definition import InMemoryTask

# Of the GPU's memory; vLLM's default of 0.9 leaves too little for what this process goes on holding.
VLLM_MEMORY_SHARE = 0.85


@contextmanager
def language_model(
    loaded: LoadedModel, evaluations: Mapping[str, InMemoryTask], settings: Scoring, batch_size: int
) -> Iterator[LM]:
    """Context manager: the lm-eval LM for this kind of model and backend.

    Args:
        loaded: the model to score; vLLM gets a merged copy of its weights.
        evaluations: lm-eval tasks by name; a classifier reads their classification.
        settings: backend, precision, and tokens at a time.
        batch_size: prompts at a time.

    Raises:
        ValueError: vLLM is not installed.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    limit = max_tokens(model.config, tokenizer)
    autocast = "bfloat16" if settings.precision == "bf16" else None
    given = {"tokenizer": tokenizer, "batch_size": batch_size, "max_length": limit}
    # Likelihoods of a bfloat16 model, rounded to 8 bits, would make ties of close choices.
    given |= {"softmax_dtype": "float32", "mixed_precision_dtype": autocast}
    if settings.backend == "vllm":
        with _vllm(loaded, batch_size, limit) as lm:
            yield lm
    elif loaded.kind in CLASSIFIERS:
        from bench.score.encoder import EncoderLM

        forms = {name: task.classification for name, task in evaluations.items() if task.classification is not None}
        yield EncoderLM(loaded, forms, batch_size, limit, autocast is not None)
    elif loaded.kind == "seq2seq":
        from bench.score.language import Seq2SeqLM

        yield Seq2SeqLM(pretrained=model, backend="seq2seq", **given)
    else:
        from bench.score.shared_context import SharedContextLM

        yield SharedContextLM(pretrained=model, backend="causal", batch_tokens=settings.batch_tokens, **given)


def vllm_class() -> type[Any]:
    """lm-eval's LM class for vLLM.

    Raises:
        ValueError: vLLM is not installed.
    """
    if find_spec("vllm") is None:
        raise ValueError("score.backend=vllm needs vllm (pip install vllm) and a GPU")
    from lm_eval.models.vllm_causallms import VLLM

    return VLLM


@contextmanager
def _vllm(loaded: LoadedModel, batch_size: int, limit: int) -> Iterator[LM]:
    """Context manager: vLLM with the merged weights; the model itself is moved to the CPU meanwhile."""
    from accelerate.utils.memory import clear_device_cache

    from bench.score.language import for_vllm

    model = loaded.model
    module, device = cast("nn.Module", model), model.device
    module.to("cpu")
    clear_device_cache(garbage_collection=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _save_merged(loaded, Path(folder))
            lm = for_vllm(vllm_class())(
                pretrained=folder,
                dtype=str(model.dtype).removeprefix("torch."),
                max_model_len=limit,
                seed=0,  # of sampling, which greedy decoding does not do
                gpu_memory_utilization=VLLM_MEMORY_SHARE,
                batch_size=batch_size,
            )
            yield lm
            vars(lm).clear()  # the caller holds on to it, and its engine to the GPU's memory
    finally:
        clear_device_cache(garbage_collection=True)
        module.to(device)


def _save_merged(loaded: LoadedModel, folder: Path) -> None:
    # In a deep copy: taking an adapter out of a weight again would leave it changed by rounding.
    merged: Any = copy.deepcopy(loaded.model)
    if hasattr(merged, "merge_and_unload"):
        merged = merged.merge_and_unload()
    merged.generation_config = plain_generation_config(merged.generation_config)
    merged.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


def plain_generation_config(config: GenerationConfig) -> GenerationConfig:
    """The special tokens of a generation config, without sampling, beams, penalties and forced tokens."""
    from transformers import GenerationConfig

    kept = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    return GenerationConfig(**{name: getattr(config, name) for name in kept})
