"""lm-eval's LM for a model with a classification head, of texts or of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from torch import Tensor
from tqdm import tqdm

from bench.model.load import LoadedModel
from bench.tasks.examples import Classification, collate
from bench.tasks.reader import Reader

Key = tuple[str, int]  # task and number of a document


class EncoderLM(LM):
    """The log-likelihood of a choice is the log-probability of the class with its index.

    lm-eval's prompt is ignored: the text fields or the image of the row are encoded, once a row. The output of a
    regression is returned as generated text.

    Args:
        loaded: the classifier, with a head of num_labels outputs.
        classifications: fields and number of labels of each task.
        batch_size: rows at a time.
        max_length: tokens to which longer texts are cut.
        autocast: whether the model computes in bfloat16.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        classifications: Mapping[str, Classification],
        batch_size: int,
        max_length: int,
        autocast: bool = False,
    ) -> None:
        super().__init__()
        self._loaded = loaded
        self._reader = Reader(loaded.tokenizer, loaded.kind, max_length)
        self._classifications = classifications
        self._batch_size = batch_size
        self._autocast = autocast
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
        """Not possible with a classifier.

        Raises:
            ValueError: always.
        """
        raise ValueError("a classifier gives no likelihood of a text; score a causal model on this task")

    @torch.no_grad()
    def _logits(self, requests: Sequence[Instance], disable_tqdm: bool) -> dict[Key, Tensor]:
        """Logits (num_labels,) of each document, float32 and on the CPU."""
        model, examples = self._loaded.model, dict[Key, Any]()
        for task, classification in self._classifications.items():
            rows = {_key(request): request.doc for request in requests if request.task_name == task}
            encoded = self._reader.classified(list(rows.values()), classification)
            examples |= dict(zip(rows, encoded, strict=True))
        # The longest first: memory that does not suffice shows at once, and rows of a batch are of about one length.
        keys = sorted(examples, key=lambda key: -examples[key].num_tokens)
        found: dict[Key, Tensor] = {}
        with tqdm(total=len(keys), disable=disable_tqdm, desc="Classifying") as bar:
            for start in range(0, len(keys), self._batch_size):
                chosen = keys[start : start + self._batch_size]
                batch = collate([examples[key] for key in chosen], self._loaded.pad_token_id)
                inputs = {name: values.to(model.device) for name, values in batch.items() if name != "labels"}
                with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=self._autocast):
                    logits = model(**inputs).logits.float().cpu()
                found |= dict(zip(chosen, logits, strict=True))
                bar.update(len(chosen))
        self.truncated.update(task for (task, _), example in examples.items() if example.truncated)
        return found


def _key(request: Instance) -> Key:
    return str(request.task_name), int(request.doc_id)
