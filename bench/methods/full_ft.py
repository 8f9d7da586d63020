"""Full fine-tuning: every parameter of the model is trained, embeddings and norms included; the upper reference."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Method, Trainable


@dataclass(frozen=True, config=STRICT)
class FullFT(Method):
    """No adapter; the rank has no meaning."""

    label: ClassVar[str] = "Full FT"
    trains: ClassVar[frozenset[Trainable]] = frozenset({"weight"})
    keeps_function: ClassVar[bool] = True
