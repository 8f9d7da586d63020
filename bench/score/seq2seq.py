"""lm-eval's class for sequence-to-sequence models, padded and stopped as such models need it.

Choices are scored as lm-eval does it: the prompt, with the tokenizer's special tokens, for the encoder; the choice,
without any and so without EOS, for the decoder.
"""

from __future__ import annotations

from typing import Any

from lm_eval.models.huggingface import HFLM
from torch import Tensor


class Seq2SeqLM(HFLM):
    """Two departures from HFLM, without which the batch size and the longest prompt in a batch would move answers.

    HFLM pads prompts on the left, which shifts the absolute positions of an encoder such as BART's, and it lets the
    decoder write max_gen_toks and as many tokens as the prompt has.
    """

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "right",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Prompts as input_ids and attention_mask (batch, tokens), each cut by itself and padded on the right."""
        ids = [self.tok_encode(string, left_truncate_len=left_truncate_len) for string in strings]
        batch: Any = self.tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt")
        return batch["input_ids"], batch["attention_mask"]

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any) -> Tensor:
        """max_length comes as prompt and answer together; the decoder holds its start token and the answer."""
        return super()._model_generate(context, max_length - context.shape[1] + 1, stop, **generation_kwargs)
