"""lm-eval's classes for causal and sequence-to-sequence models, given the tokens that training gives.

By itself lm-eval encodes with the tokenizer's whole template: a prompt ends in the EOS that some templates append, and
a text to be read starts from BOS twice. As lm-eval does it, a choice is scored without EOS: a causal model's behind its
prompt; that of a sequence-to-sequence model in the decoder, while the encoder has the prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from bench.score.guard import room
from bench.tasks.examples import encode_pair, encode_prompt, move_spaces, opening, windows


class TrainedTokens(TemplateLM):
    """Encodes as bench.tasks.examples does; a base of each class below, before lm-eval's own."""

    served_by = "hf"
    padding_side = "left"
    backend: Any
    tokenizer: Any
    max_length: int

    def tok_encode(self, string: Any, add_special_tokens: bool | None = None, **_: Any) -> Any:
        """Tokens of a prompt; a list of them for several prompts, which lm-eval's class for vLLM gives at a time."""
        return self._prompt(string) if isinstance(string, str) else [self._prompt(each) for each in string]

    def tok_batch_encode(
        self, strings: Iterable[str], *_: Any, left_truncate_len: int | None = None, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Prompts as input_ids and attention_mask (batch, tokens), each cut by itself."""
        ids = [self._prompt(string)[-(left_truncate_len or 0) :] for string in strings]
        batch = self.tokenizer.pad({"input_ids": ids}, padding_side=self.padding_side, return_tensors="pt")
        return batch["input_ids"], batch["attention_mask"]

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The log-likelihood of each request's answer behind its prompt, and whether greedy decoding gives it."""
        encoded = [(request.args, *self.encode_pair(*request.args)) for request in requests]
        return self._loglikelihood_tokens(encoded, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each request's text, read in the windows of training."""
        length = min(self.max_length, room(self.max_length, self.served_by))
        texts = windows(self.tokenizer, [request.args[0] for request in requests], length)
        encoded = [(None, *window) for text in texts for window in text]
        found = iter(self._loglikelihood_tokens(encoded, disable_tqdm=disable_tqdm))
        return [sum(next(found)[0] for _ in text) for text in texts]

    def encode_pair(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Tokens of a prompt and of the answer to be scored."""
        return encode_pair(self.tokenizer, *move_spaces(prompt, answer), self.backend)

    def _prompt(self, prompt: str) -> list[int]:
        return encode_prompt(self.tokenizer, prompt, self.backend)


class CausalLM(TrainedTokens, HFLM):
    """A causal model through transformers."""


class Seq2SeqLM(TrainedTokens, HFLM):
    """An encoder-decoder through transformers.

    Padded on the right, unlike HFLM, which would shift the absolute positions of an encoder such as BART's.
    """

    padding_side = "right"

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any) -> Tensor:
        """The decoder holds its start token, the template's opening and the answer; HFLM's max_length a prompt."""
        start = opening(self.tokenizer)
        forced = {"forced_bos_token_id": start[0]} if start else {}
        longest = max_length - context.shape[1] + 1 + len(start)
        ends = stop_strings(stop, generation_kwargs)
        return super()._model_generate(context, longest, ends, **forced, **generation_kwargs)


def stop_strings(stop: list[str], given: Mapping[str, Any]) -> list[str]:
    """Those that may end a batch: none of a beam search, which HFLM ends when the first rows of beams have met them.

    HFLM cuts every answer at them all the same.

    Args:
        stop: of the requests.
        given: their other generation settings.
    """
    return [] if given.get("num_beams", 1) > 1 else stop


def for_vllm(lm_class: type[Any]) -> type[Any]:
    """lm-eval's class for vLLM, given the tokens that training gives."""
    return type(lm_class.__name__, (TrainedTokens, lm_class), {"served_by": "vllm"})
