"""lm-eval's LM for causal models: rows leave the batch when they have ended, and waiting prompts take their places.

HFLM computes every row of a batch until the last one has ended, and to the full length unless all of them meet the same
one of several stop strings. Rows end here where HFLM ends a batch of one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from lm_eval.api.instance import Instance
from torch import Tensor
from torch.nn.functional import pad
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import Cache, DynamicLayer

from bench.score.language import CausalLM, stop_strings

# Rows leave, and others join, when this share of a batch can: entering transformers' loop costs as much as some steps.
SHARE = 1 / 8

# Prompts that begin together are at least this share of the longest; what is shorter would be padded.
LEAST_LENGTH = 0.8

# Batches of prompts that HFLM gives at a time; its progress bar moves when all of them are answered.
AHEAD = 4

LOOKBACK = 2  # tokens behind a stop string's own number, which may be encoded otherwise within a text


@dataclass
class _Rows:
    """Rows that are being written, padded on the left.

    Attributes:
        numbers: places among all prompts (rows,).
        tokens, mask: of prompts and answers (rows, tokens).
        written: tokens of each answer (rows,).
        cache: of all tokens but the last; None before the first pass.
    """

    numbers: Tensor
    tokens: Tensor
    mask: Tensor
    written: Tensor
    cache: Any = None

    def __len__(self) -> int:
        return len(self.numbers)

    def keep(self, rows: Tensor) -> None:
        """Leaves out all rows but these."""
        for name in ("numbers", "tokens", "mask", "written"):
            setattr(self, name, getattr(self, name)[rows])
        # Of states of any kind; batch_select_indices leaves those of linear attention out.
        self.cache.reorder_cache(cast("torch.LongTensor", rows))

    def join(self, other: _Rows) -> None:
        """Adds the rows of another; both have caches of keys and values alone."""
        wider = max(self.tokens.shape[1], other.tokens.shape[1])
        for rows in (self, other):
            rows.pad(wider - rows.tokens.shape[1])
        for name in ("numbers", "tokens", "mask", "written"):
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)]))
        for mine, its in zip(self.cache.layers, other.cache.layers, strict=True):
            mine.keys, mine.values = torch.cat([mine.keys, its.keys]), torch.cat([mine.values, its.values])

    def pad(self, columns: int) -> None:
        """Adds columns of padding on the left; takes them away if `columns` is negative."""
        if columns:
            self.tokens, self.mask = pad(self.tokens, (columns, 0)), pad(self.mask, (columns, 0))
            for layer in self.cache.layers:
                layer.keys, layer.values = (pad(each, (0, 0, columns, 0)) for each in (layer.keys, layer.values))


class EndedRowsLeaveLM(CausalLM):
    """A causal model through transformers that computes no row beyond its end."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._most_rows: int = self.batch_size_per_gpu

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answers to prompts; `_model_generate` is given several batches at a time."""
        self.batch_size_per_gpu = AHEAD * self._most_rows
        try:
            return cast("list[str]", super().generate_until(list(requests), disable_tqdm=disable_tqdm))
        finally:
            self.batch_size_per_gpu = self._most_rows

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **given: Any) -> Tensor:
        """Tokens of prompts and answers (prompts, tokens), an answer padded behind its stop string or EOS.

        Args:
            context: prompts (prompts, tokens), padded on the left, the longest first.
            max_length: of `context` and an answer.
            stop: strings.
            given: attention_mask, and the task's own settings.
        """
        mask, width = given.pop("attention_mask"), context.shape[1]
        found = pad(context, (0, max_length - width), value=self.tokenizer.pad_token_id)
        if given.get("do_sample") or given.get("num_beams", 1) > 1 or not isinstance(self._cache, Cache):
            for batch in torch.arange(len(context), device=context.device).split(self._most_rows):
                start = _padding(mask[batch])  # HFLM pads a batch to its own longest prompt
                own = {"attention_mask": mask[batch, start:], "max_length": max_length - start}
                own["stop"] = stop_strings(stop, given)
                tokens = super()._model_generate(context[batch, start:], **own, **given)
                found[batch, start : start + tokens.shape[1]] = tokens
            return found
        given = {name: value for name, value in given.items() if name != "temperature"} | {"do_sample": False}
        ends, longest = self._ends(stop), max_length - width
        # States that are not keys and values of all tokens can be selected from and not be padded.
        joins = all(type(layer) is DynamicLayer for layer in self._cache.layers)
        waiting = torch.arange(len(context), device=context.device)
        rows: _Rows | None = None
        while len(waiting) or rows:
            free = self._most_rows - len(rows or ())
            if len(waiting) and (not rows or (joins and free >= SHARE * self._most_rows)):
                chosen = waiting[:free]
                if joins:
                    chosen = chosen[mask[chosen].sum(dim=1) >= LEAST_LENGTH * mask[chosen[0]].sum()]
                waiting = waiting[len(chosen) :]
                start = _padding(mask[chosen])
                new = _Rows(chosen, context[chosen, start:], mask[chosen, start:], torch.zeros_like(chosen))
                steps = 1 if joins else longest
            else:
                assert rows
                steps = longest - int(rows.written.min())
                new, rows = rows, None
            ended = self._write(new, steps, longest, ends, given)
            for row in ended.nonzero()[:, 0].tolist():
                answer = new.tokens[row, new.tokens.shape[1] - new.written[row] :][:longest]
                found[new.numbers[row], width : width + len(answer)] = answer
            if not ended.all():
                new.keep((~ended).nonzero()[:, 0])
                if joins:
                    new.pad(-_padding(new.mask))
                if rows:
                    rows.join(new)
                else:
                    rows = new
        return found

    def _write(
        self, rows: _Rows, steps: int, longest: int, ends: Callable[[list[int]], bool], given: dict[str, Any]
    ) -> Tensor:
        """Writes up to so many tokens, or until a share of the rows has ended; returns which have (rows,)."""
        ended = _Ended(ends, rows.written, longest, max(1, int(len(rows) * SHARE)))
        before = rows.tokens.shape[1]
        precision = self.mixed_precision_dtype
        with torch.autocast(self.device.type, dtype=precision, enabled=precision is not None):
            output = self.model.generate(
                input_ids=rows.tokens,
                attention_mask=rows.mask,
                past_key_values=rows.cache,
                max_length=before + steps,
                stopping_criteria=StoppingCriteriaList([ended]),
                pad_token_id=self.tokenizer.pad_token_id,
                use_cache=True,
                return_dict_in_generate=True,
                **given,
            )
        rows.tokens, rows.cache = output.sequences, output.past_key_values
        new = rows.tokens.shape[1] - before
        rows.mask, rows.written = pad(rows.mask, (0, new), value=1), rows.written + new
        return ended.rows

    @functools.cached_property
    def _cache(self) -> Any:
        """What the model keeps of the tokens that it has read."""
        token = torch.ones(1, 1, dtype=torch.long, device=self.device)
        rows = _Rows(token[0], token, token, torch.zeros_like(token[0]))
        self._write(rows, 1, 1, lambda answer: True, {"do_sample": False})
        return rows.cache

    def _ends(self, stop: list[str]) -> Callable[[list[int]], bool]:
        """Whether the last token of an answer ends it, by being EOS or by ending a stop string."""
        eos = self.model.generation_config.eos_token_id
        last = set(eos if isinstance(eos, list) else [eos])
        longest = max((len(self.tokenizer.encode(each, add_special_tokens=False)) for each in stop), default=0)

        def ends(answer: list[int]) -> bool:
            tail = self.tokenizer.decode(answer[-longest - LOOKBACK :])
            # A tail may be decoded otherwise than within its text.
            found = any(each in tail and each in self.tokenizer.decode(answer) for each in stop)
            return found or answer[-1] in last

        return ends


class _Ended(StoppingCriteria):
    """Ends rows, and the batch once `leave` of them have ended.

    Args:
        ends: whether an answer has just ended.
        written: tokens of each answer so far (rows,).
        longest: tokens of an answer at most.
        leave: rows.

    Attributes:
        rows: whether each row has ended (rows,).
    """

    def __init__(self, ends: Callable[[list[int]], bool], written: Tensor, longest: int, leave: int) -> None:
        self._ends, self._longest, self._leave = ends, longest, leave
        self._written = written.tolist()
        self.rows = torch.zeros_like(written, dtype=torch.bool)

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        ended = self.rows.tolist()
        self._written = [number + 1 for number in self._written]
        for row, (tokens, number) in enumerate(zip(input_ids.tolist(), self._written, strict=True)):
            ended[row] = ended[row] or number >= self._longest or self._ends(tokens[-number:])
        self.rows = torch.tensor(ended, device=input_ids.device)
        return self.rows | (sum(ended) >= self._leave)


def _padding(mask: Tensor) -> int:
    """The number of columns on the left that are padding in every row."""
    return int(mask.any(dim=0).nonzero()[0, 0])
