"""Token sequences that share prefixes as trees: each distinct prefix is computed once.

A row of a batch holds the tokens of a tree. A token's position is its depth, and it attends to itself and to its
ancestors, so that each path from the root is computed as if it were alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import torch
from torch import Tensor


@dataclass(frozen=True)
class Request:
    """A sequence of tokens to read, and what is to be predicted at its last positions.

    Attributes:
        tokens: read by the model.
        targets: the token that follows each of the last len(targets) tokens.
        index: the place among all requests.
    """

    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    index: int

    @property
    def context(self) -> tuple[int, ...]:
        """The tokens before the first target."""
        return self.tokens[: len(self.tokens) - len(self.targets) + 1]


@dataclass
class Tree:
    """Requests of one row; tokens are in the order in which they were added.

    Attributes:
        tokens, depths: of each node.
        branches: (start, end, parent) of each run of nodes that was added at once; parent is -1 at the root.
        paths: nodes of each request, from the root.
    """

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    branches: list[tuple[int, int, int]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    paths: list[list[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def longest(self) -> int:
        """The number of the request with the most tokens."""
        return max(range(len(self.paths)), key=lambda n: len(self.paths[n]))

    def depth(self) -> int:
        """Tokens of the longest request."""
        return len(self.paths[self.longest()])

    def shared(self, request: Request) -> int:
        """Number of leading tokens that the request shares with the one added last."""
        if not self.requests:
            return 0
        pairs = zip(self.requests[-1].tokens, request.tokens, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def add(self, request: Request, shared: int) -> None:
        """Adds a request whose first tokens, `shared` of them, are those of the one added last."""
        path = self.paths[-1][:shared] if shared else []
        start, end = len(self), len(self) + len(request.tokens) - shared
        if end > start:
            self.branches.append((start, end, path[-1] if path else -1))
        self.tokens += request.tokens[shared:]
        self.depths += range(shared, len(request.tokens))
        self.requests.append(request)
        self.paths.append(path + list(range(start, end)))

    def ancestry(self) -> Tensor:
        """Whether a token (row) attends to another (column): bool (tokens, tokens)."""
        seen = torch.zeros(len(self), len(self), dtype=torch.bool)
        for start, end, parent in self.branches:
            if parent >= 0:
                seen[start:end] = seen[parent]
            seen[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
        return seen


def trees(requests: Iterable[Request], most: int) -> tuple[list[Tree], int]:
    """Puts requests that share a context, or more than they do not share, into one tree.

    Args:
        requests: in any order.
        most: tokens of a tree, unless a single request is longer.

    Returns:
        trees; number of contexts that are computed more than once, because their answers exceed `most`.
    """
    found: list[Tree] = []
    split = set()
    for request in sorted(requests, key=lambda request: request.tokens):
        tree = found[-1] if found else Tree()
        shared = tree.shared(request)
        new = len(request.tokens) - shared
        if shared and (shared >= len(request.context) or shared >= new):
            if len(tree) + new <= most:
                tree.add(request, shared)
                continue
            if shared >= len(request.context):
                split.add(request.context)
        found.append(Tree())
        found[-1].add(request, 0)
    return found, len(split)


def batches(rows: Sequence[Tree], most: int, least_length: float) -> Iterator[list[Tree]]:
    """Rows by length, the longest first: memory that does not suffice shows at once, and little is padding.

    Args:
        rows: in any order.
        most: rows times tokens of the longest, unless a single row is longer.
        least_length: of a row, as a share of the longest of its batch.
    """
    chosen: list[Tree] = []
    for row in sorted(rows, key=len, reverse=True):
        if chosen and (len(chosen[0]) * (len(chosen) + 1) > most or len(row) < least_length * len(chosen[0])):
            yield chosen
            chosen = []
        chosen.append(row)
    if chosen:
        yield chosen
