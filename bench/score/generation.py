"""lm-eval's LM for causal models whose rows leave the batch when they have ended.

HFLM computes every row of a batch until the last one has ended, and to the full length unless all of them meet the same
one of several stop strings. Rows end here where HFLM ends a batch of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import Cache

from bench.score.language import CausalLM

# A batch is made smaller when this share of its rows has ended: entering transformers' loop again costs as much as some
# steps of a small model.
SHARE = 1 / 8

LOOKBACK = 2  # tokens behind a stop string's own number, which may be encoded otherwise within a text


class EndedRowsLeaveLM(CausalLM):
    """A causal model through transformers that computes no row beyond its end."""

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **given: Any) -> Tensor:
        """Tokens (batch, context and answer), padded on the right; an answer ends behind a stop string or EOS."""
        if given.get("do_sample") or given.get("num_beams", 1) > 1:
            return super()._model_generate(context, max_length, stop, **given)
        given = {name: value for name, value in given.items() if name != "temperature"} | {"do_sample": False}
        first = mask = given.pop("attention_mask")
        pad = self.tokenizer.pad_token_id
        found = context.new_full((len(context), max_length), pad)
        rows = torch.arange(len(context), device=context.device)  # those that are still in the batch
        tokens, cache = context, None
        while len(rows):
            ended = _Ended(self._ends(stop, context.shape[1]), max(1, int(len(rows) * SHARE)))
            with torch.autocast(
                self.device.type, dtype=self.mixed_precision_dtype, enabled=self.mixed_precision_dtype is not None
            ):
                output = self.model.generate(
                    input_ids=tokens,
                    attention_mask=mask,
                    past_key_values=cache,
                    max_length=max_length,
                    stopping_criteria=StoppingCriteriaList([ended]),
                    pad_token_id=pad,
                    use_cache=True,
                    return_dict_in_generate=True,
                    **given,
                )
            tokens = output.sequences
            found[rows, : tokens.shape[1]] = tokens
            if tokens.shape[1] == max_length:
                break
            (kept,) = torch.nonzero(~ended.rows, as_tuple=True)
            rows, tokens = rows[kept], tokens[kept]
            mask = torch.nn.functional.pad(mask[kept], (0, tokens.shape[1] - mask.shape[1]), value=1)
            cache = output.past_key_values
            if not isinstance(cache, Cache):  # RWKV keeps a state of its own, which no argument gives back
                return super()._model_generate(context, max_length, stop, attention_mask=first, **given)
            # Of states of any kind; batch_select_indices leaves those of linear attention out.
            cache.reorder_cache(cast("torch.LongTensor", kept))
        return found

    def _ends(self, stop: list[str], start: int) -> Callable[[list[int]], bool]:
        """Whether the answer behind the first `start` tokens of a row has just ended: by EOS or by a stop string."""
        ids = self.model.generation_config.eos_token_id
        eos = set(ids if isinstance(ids, list) else [ids])
        longest = max((len(self.tokenizer.encode(each, add_special_tokens=False)) for each in stop), default=0)

        def ends(row: list[int]) -> bool:
            if row[-1] in eos:
                return True
            answer = row[start:]
            tail = self.tokenizer.decode(answer[-longest - LOOKBACK :])
            # A tail may be decoded otherwise than within its text.
            return any(each in tail and each in self.tokenizer.decode(answer) for each in stop)

        return ends


class _Ended(StoppingCriteria):
    """Ends rows, and the batch once `leave` of them have ended.

    Attributes:
        rows: whether each row has ended.
    """

    def __init__(self, ends: Callable[[list[int]], bool], leave: int) -> None:
        self._ends = ends
        self._leave = leave
        self.rows = torch.zeros(0, dtype=torch.bool)

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        if not len(self.rows):
            self.rows = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        before = self.rows.tolist()
        after = [was or self._ends(row) for was, row in zip(before, input_ids.tolist(), strict=True)]
        self.rows = torch.tensor(after, device=input_ids.device)
        return self.rows | (sum(after) >= self._leave)
