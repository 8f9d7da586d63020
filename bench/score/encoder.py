"""lm-eval's LM for an encoder with a classification head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bench.tasks.examples import Classification, Example, classify, collate

Key = tuple[str, int]  # task and number of a document


class EncoderLM(LM):
    """The log-likelihood of a choice is the log-probability of the class with its index.

    lm-eval's prompt is ignored: the text fields of the row are encoded, once a row. The output of a regression is
    returned as generated text.

    Args:
        model: the encoder, with a head of num_labels outputs.
        tokenizer: the model's.
        classifications: text fields and number of labels of each task.
        batch_size: rows at a time.
        max_length: tokens to which longer rows are cut.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        classifications: Mapping[str, Classification],
        batch_size: int,
        max_length: int,
    ) -> None:
        super().__init__()
        self._model = model
        self._tokenizer = tokenizer
        self._classifications = classifications
        self._batch_size = batch_size
        self._max_length = max_length
        self.truncated: Counter[str] = Counter()  # rows cut, by task

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The log-probability of each request's class, and whether it is the likeliest."""
        found = {key: logits.log_softmax(dim=-1) for key, logits in self._logits(requests, disable_tqdm).items()}
        answers = ((found[_key(request)], request.idx) for request in requests)
        return [(values[idx].item(), int(values.argmax()) == idx) for values, idx in answers]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """The output of a regression, as text."""
        found = self._logits(requests, disable_tqdm)
        return [str(found[_key(request)].item()) for request in requests]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Not possible with an encoder.

        Raises:
            ValueError: always.
        """
        raise ValueError("an encoder gives no likelihood of a text; score a causal model on this task")

    @torch.no_grad()
    def _logits(self, requests: Sequence[Instance], disable_tqdm: bool) -> dict[Key, Tensor]:
        """Logits (num_labels,) of each document, float32 and on the CPU."""
        examples: dict[Key, Example] = {}
        for task, classification in self._classifications.items():
            rows = {_key(request): request.doc for request in requests if request.task_name == task}
            encoded = classify(self._tokenizer, list(rows.values()), classification, self._max_length)
            examples |= dict(zip(rows, encoded, strict=True))
        # The longest first: memory that does not suffice shows at once, and rows of a batch are of about one length.
        keys = sorted(examples, key=lambda key: -len(examples[key].input_ids))
        found: dict[Key, Tensor] = {}
        with tqdm(total=len(keys), disable=disable_tqdm, desc="Classifying") as bar:
            for start in range(0, len(keys), self._batch_size):
                chosen = keys[start : start + self._batch_size]
                batch = collate([examples[key] for key in chosen], self._tokenizer.pad_token_id)
                inputs = {name: values.to(self._model.device) for name, values in batch.items() if name != "labels"}
                logits = self._model(**inputs).logits.float().cpu()
                found |= dict(zip(chosen, logits, strict=True))
                bar.update(len(chosen))
        self.truncated.update(task for (task, _), example in examples.items() if example.truncated)
        return found


def _key(request: Instance) -> Key:
    return str(request.task_name), int(request.doc_id)
