"""Checks before scoring, and counts of items that were truncated."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from bench.model.kinds import CLASSIFIERS
from bench.model.limits import check_precision, max_tokens
from bench.score.backends import vllm_class
from bench.tasks.examples import encode_pair, move_spaces, opening

if TYPE_CHECKING:
    from bench.model.load import Kind, LoadedModel
    from bench.score.settings import Scoring
    from bench.tasks.definition import InMemoryTask

DEFAULT_MAX_GEN_TOKS = 256  # lm-eval's, of a definition that says nothing


def check(loaded: LoadedModel, evaluations: Mapping[str, InMemoryTask], settings: Scoring) -> None:
    """Refuses tasks that the model cannot be scored on, and counts what it cannot write; called before training.

    Args:
        loaded: the model, whose configuration limits the number of tokens.
        evaluations: lm-eval tasks by name.
        settings: backend, and leave to run a model's code.

    Raises:
        ValueError: vLLM with another than a causal model, or not installed; a precision that the device does not have;
            a task that runs a model's code without leave, has no form for an encoder, generates more than the model
            can hold, or has an answer without tokens or with more than that.
    """
    check_precision("score.precision", settings.precision)
    if settings.backend == "vllm":
        if settings.precision == "bf16":
            raise ValueError(
                "score.precision=bf16 is autocast, and vllm computes in the model's dtype: model.dtype=bfloat16"
            )
        if loaded.kind != "causal":
            raise ValueError(f"score.backend=vllm serves causal models only, and this one is {loaded.kind}; take hf")
        vllm_class()
    limit = max_tokens(loaded.model.config, loaded.tokenizer)
    for name, task in evaluations.items():
        if getattr(task, "UNSAFE_CODE", False) and not settings.confirm_run_unsafe_code:
            raise ValueError(
                f"{name} runs code that a model wrote: say score.confirm_run_unsafe_code=true, in a sandbox"
            )
        if loaded.kind in CLASSIFIERS:
            _check_classification(name, task)
            continue
        _check_answers(name, task, loaded, settings)
        _warn_of_long_targets(name, task, loaded, settings)
        if loaded.kind == "causal" and task.OUTPUT_TYPE == "generate_until":
            asked = max_gen_toks(task.config.generation_kwargs)
            if asked >= limit:
                raise ValueError(
                    f"{name} generates up to {asked} tokens, which leaves no room for a prompt in the {limit} that the "
                    "model takes; score another model on it"
                )


def _check_answers(name: str, task: InMemoryTask, loaded: LoadedModel, settings: Scoring) -> None:
    from bench.tasks.definition import scored_pairs

    limit = max_tokens(loaded.model.config, loaded.tokenizer)
    before = len(opening(loaded.tokenizer)) if loaded.kind == "seq2seq" else 0
    most = min(limit, room(limit, settings.backend) - 1) - before  # a token of the prompt is before them
    for number, doc in enumerate(islice(task.eval_docs, settings.limit)):
        # No token has less than a byte; a delimiter, and spaces from the prompt, come to the answer.
        for prompt, answer in scored_pairs(task, doc, most // 2):
            _, tokens = encode_pair(loaded.tokenizer, *move_spaces(prompt, answer), loaded.kind)
            if not 0 < (own := len(tokens) - before) <= most:
                raise ValueError(
                    f"{name}: an answer of item {number} has {own} tokens, and 1 to {most} can be scored: "
                    f"{answer[:60]!r}; leave the row out, or score another model"
                )


def _warn_of_long_targets(name: str, task: InMemoryTask, loaded: LoadedModel, settings: Scoring) -> None:
    if task.OUTPUT_TYPE != "generate_until" or getattr(task, "UNSAFE_CODE", False):
        return
    most, targets = max_gen_toks(task.config.generation_kwargs), list(islice(_targets(task), settings.limit))
    long = [target for target in targets if len(target.encode()) > most]  # no token has less than a byte
    encoded = loaded.tokenizer(long, add_special_tokens=False)["input_ids"] if long else []
    if number := sum(len(ids) > most for ids in encoded):
        warnings.warn(
            f"{number} of {len(targets)} scored targets of {name} have more tokens than the {most} that may be "
            "generated (max_gen_toks of its definition), and no answer can have all of them",
            stacklevel=2,  # the same place whoever checks: it is said once
        )


def _targets(task: InMemoryTask) -> Iterator[str]:
    return (target for doc in task.docs() if isinstance(target := task.doc_to_target(doc), str))


def _check_classification(name: str, task: InMemoryTask) -> None:
    form = task.classification
    if form is None:
        raise ValueError(f"task {name} has no classification form; a classifier cannot be scored on it")
    expected = "generate_until" if form.num_labels == 1 else "multiple_choice"
    if expected != task.OUTPUT_TYPE:
        raise ValueError(
            f"task {name} has {form.num_labels} labels, for which a classifier needs a definition with "
            f"output_type={expected}, not {task.OUTPUT_TYPE}; choose another template"
        )
    choices = task.config.doc_to_choice
    if form.num_labels > 1 and not (isinstance(choices, list) and len(choices) == form.num_labels):
        raise ValueError(
            f"task {name} has {form.num_labels} labels, but the choices of its definition are {choices}; a classifier "
            "needs as many, the same for every row and in the order of the labels"
        )


def max_gen_toks(generation_kwargs: Mapping[str, Any] | None) -> int:
    """The largest number of tokens that a task definition lets a model generate."""
    from lm_eval.models.utils import normalize_gen_kwargs

    return int(normalize_gen_kwargs(dict(generation_kwargs or {}), DEFAULT_MAX_GEN_TOKS)["max_gen_toks"])


def room(max_length: int, backend: str) -> int:
    """The largest number of tokens of a prompt and a choice together that are not cut.

    The last token of a choice is predicted and not read; vLLM reads it, and writes one more.
    """
    return max_length - 1 if backend == "vllm" else max_length + 1


def count_truncated(samples: Mapping[str, list[dict[str, Any]]], lm: Any, kind: Kind, backend: str) -> dict[str, int]:
    """Number of items of each task that exceed the model's limit, so that the start of the prompt is cut.

    Args:
        samples: lm-eval's samples by task, with the arguments of all requests.
        lm: the LM that answered them.
        kind: of the model.
        backend: hf or vllm.
    """
    if kind in CLASSIFIERS:
        return {task: lm.truncated[task] for task in samples}
    found = {}
    for task, items in samples.items():
        arguments = {item["doc_id"]: item["arguments"] for item in items}  # several filters have one item each
        found[task] = sum(any(_is_cut(asked, lm, kind, backend) for asked in own) for own in arguments.values())
    return found


def _is_cut(arguments: tuple[Any, ...], lm: Any, kind: Kind, backend: str) -> bool:
    if len(arguments) == 1:  # a text to be read in windows
        return False
    prompt, wanted = arguments
    if not isinstance(wanted, str):  # how to generate
        reserved = 0 if kind == "seq2seq" else max_gen_toks(wanted)
        return len(lm.tok_encode(prompt)) > lm.max_length - reserved
    prompt_ids, answer_ids = lm.encode_pair(prompt, wanted)
    if kind == "seq2seq":
        return len(prompt_ids) > lm.max_length
    return len(prompt_ids) + len(answer_ids) > room(lm.max_length, backend)
