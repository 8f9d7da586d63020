"""lm-eval's LM for causal models that computes each context once with all its continuations."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from tqdm import tqdm

from bench.score.generation import EndedRowsLeaveLM
from bench.score.trees import Request, Tree, batches, trees

Answer = tuple[float, bool]  # log-likelihood, and whether greedy decoding gives these tokens

# Rows of a batch that are shorter than this share of the longest wait for the next batch.
LEAST_LENGTH = 0.8

# A model that reads trees as it reads sequences differs by rounding; the wrong mask or position moves logits by their
# own size. Relative norms of the logits of SmolLM2-135M: 1e-6 in float32, 1e-2 in bfloat16.
TOLERANCE = 1e-3  # in float32
ROUGH_TOLERANCE = 0.1

# The shortest published attention window is GPT-Neo's of 256 tokens: deeper trees are tried at full depth.
SHORT, SHORTEST_WINDOW = 24, 256


class SharedContextLM(EndedRowsLeaveLM):
    """A causal model that is given trees of tokens where it reads them rightly, and HFLM's rows where it does not.

    A tree is one row with a 4D attention mask and the depth of each token as its position.

    Attributes:
        batch_tokens: tokens at a time, halved while memory does not suffice.
        shared_context: whether the requests were read as trees; None before there were any.
        num_split: contexts that were computed more than once, because their choices exceed batch_tokens.
    """

    def __init__(self, *, batch_tokens: int, **given: Any) -> None:
        super().__init__(**given)
        self.batch_tokens = batch_tokens
        self.shared_context: bool | None = None
        self.num_split = 0

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None) -> Any:
        asked = [self._request(index, *request[-2:]) for index, request in enumerate(requests)]
        if asked and self.shared_context is not False:
            self.shared_context = self._reads_trees(trees(asked, self.batch_tokens)[0])
        if not self.shared_context:
            return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, override_bs=override_bs)
        while (found := self._answers(asked, disable_tqdm)) is None:
            clear_device_cache(garbage_collection=True)
            self.batch_tokens //= 2
            warnings.warn(
                f"memory does not suffice: scoring again with score.batch_tokens={self.batch_tokens}", stacklevel=3
            )
        return found

    def _request(self, index: int, context: Sequence[int], continuation: Sequence[int]) -> Request:
        tokens = [*context, *continuation][-(self.max_length + 1) :]
        return Request(tuple(tokens[:-1]), tuple(continuation), index)

    def _answers(self, asked: list[Request], disable_tqdm: bool) -> list[Answer] | None:
        """Answers in the order of the requests; None where memory does not suffice and smaller batches can be had."""
        rows, num_split = trees(asked, self.batch_tokens)
        found: dict[int, Answer] = {}
        with tqdm(total=len(asked), disable=disable_tqdm, desc="Running loglikelihood requests") as bar:
            for batch in batches(rows, self.batch_tokens, LEAST_LENGTH):
                requests = [request for row in batch for request in row.requests]
                try:
                    found |= self._read(batch)
                except RuntimeError as error:
                    if len(requests) == 1 or not _is_of_memory(error):
                        raise
                    return None  # after the handler: the error holds on to every tensor
                bar.update(len(requests))
        self.num_split += num_split
        return [found[request.index] for request in asked]

    def _read(self, batch: list[Tree]) -> dict[int, Answer]:
        """Answers of the requests of a batch of rows, by index."""
        places = [(row, tree, n) for row, tree in enumerate(batch) for n in range(len(tree.requests))]
        scored = torch.zeros(len(batch), len(batch[0]), dtype=torch.bool)
        nodes, targets = [], []
        for row, tree, n in places:
            request = tree.requests[n]
            own = torch.tensor(tree.paths[n][-len(request.targets) :])
            scored[row, own] = True
            nodes.append(row * scored.shape[1] + own)
            targets.append(torch.tensor(request.targets))
        numbers = scored.flatten().cumsum(0) - 1  # of the logits that are kept, by token
        at, wanted = numbers[torch.cat(nodes)].to(self.device), torch.cat(targets).to(self.device)
        logits = self._logits(batch, scored)
        likelihoods = _log_probabilities(logits, at, wanted).tolist()
        greedy = (logits.argmax(dim=-1)[at] == wanted).tolist()
        ends = accumulate(map(len, targets), initial=0)
        return {
            tree.requests[n].index: (sum(likelihoods[start:end]), all(greedy[start:end]))
            for (_, tree, n), (start, end) in zip(places, pairwise(ends), strict=True)
        }

    def _logits(self, batch: list[Tree], scored: Tensor) -> Tensor:
        """Logits (number of scored tokens, vocabulary), row after row, of trees that are padded on the right."""
        shape = len(batch), max(map(len, batch))
        ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        seen = torch.eye(shape[1], dtype=torch.bool).repeat(shape[0], 1, 1)  # padding attends to itself
        for row, tree in enumerate(batch):
            ids[row, : len(tree)] = torch.tensor(tree.tokens)
            positions[row, : len(tree)] = torch.tensor(tree.depths)
            seen[row, : len(tree), : len(tree)] = tree.ancestry()
        with torch.no_grad(), self._autocast():
            logits = self.model(
                input_ids=ids.to(self.device),
                attention_mask=self._mask(seen.unsqueeze(1)),
                position_ids=positions.to(self.device),
                logits_to_keep=scored.to(self.device),
                use_cache=False,
            ).logits
        return logits

    def _mask(self, seen: Tensor) -> Tensor:
        """The mask in the form that transformers' attention takes: bool, or eager's, which is added to scores."""
        if self.model.config._attn_implementation == "sdpa":
            return seen.to(self.device)
        lowest = torch.finfo(self.model.dtype).min
        return torch.zeros(seen.shape, dtype=self.model.dtype).masked_fill(~seen, lowest).to(self.device)

    def _autocast(self) -> torch.autocast:
        precision = self.mixed_precision_dtype
        return torch.autocast(self.device.type, dtype=precision, enabled=precision is not None)

    def _reads_trees(self, rows: list[Tree]) -> bool:
        """Whether requests have the logits in a tree that they have alone.

        Tried on a short tree, and on the longest and the deepest row if an attention window could tell them from it.
        """
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        doors = {"position_ids", "logits_to_keep"} <= inspect.signature(model.forward).parameters.keys()
        if not doors or self.model.config._attn_implementation not in ("sdpa", "eager"):
            return False
        longest, deepest = max(rows, key=len), max(rows, key=Tree.depth)
        try:
            tried = [_fork((deepest.requests[0].tokens * SHORT)[: min(SHORT, self.max_length)])]
            tried += [row for row in (longest, deepest) if len(row) >= SHORTEST_WINDOW]
            return all(map(self._is_read, tried))
        except Exception as error:  # whatever a model makes of a mask that it does not expect
            if isinstance(error, RuntimeError) and _is_of_memory(error):
                raise
            return False

    @torch.no_grad()
    def _is_read(self, tree: Tree) -> bool:
        """Whether the last request of a tree, and the longest, end in the logits that they have alone."""
        chosen = {tree.paths[n][-1]: tree.requests[n].tokens for n in (len(tree.requests) - 1, tree.longest())}
        ends = torch.zeros(1, len(tree), dtype=torch.bool)
        ends[0, list(chosen)] = True
        together = self._logits([tree], ends)
        exact = self.mixed_precision_dtype is None and torch.finfo(self.model.dtype).bits >= 32
        for logits, node in zip(together, sorted(chosen), strict=True):
            with self._autocast():
                ids = torch.tensor([chosen[node]], device=self.device)
                alone = self.model(input_ids=ids, logits_to_keep=1).logits[0, -1].float()
            change = (logits.float() - alone).norm() / (alone - alone.mean()).norm()
            if not change <= (TOLERANCE if exact else ROUGH_TOLERANCE):
                return False
        return True


def _fork(tokens: tuple[int, ...]) -> Tree:
    """A tree like that of an item: four answers of two tokens behind one context."""
    tree, context = Tree(), tokens[:-2]
    for n in range(4):
        tree.add(Request(context + tokens[n : n + 2], tokens[:1], n), len(context) * (n > 0))
    return tree


def _is_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def _log_probabilities(logits: Tensor, at: Tensor, wanted: Tensor, rows: int = 256) -> Tensor:
    """Of the wanted entries at some rows of the logits, in float32, some rows at a time.

    By log_softmax: the difference of a logit and a logsumexp loses the digits of what is nearly certain.
    """
    parts = zip(at.split(rows), wanted.split(rows), strict=True)
    found = [logits[own].float().log_softmax(dim=-1).gather(1, entries[:, None]) for own, entries in parts]
    return torch.cat(found).squeeze(1)
