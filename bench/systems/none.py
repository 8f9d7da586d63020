"""No system: the method's factors, the task's gradient, AdamW."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Method
from bench.systems.base import System


@dataclass(frozen=True, config=STRICT)
class NoSystem(System):
    """Changes nothing; a run with it is called by its method, and its identity says nothing of a system."""

    label: ClassVar[str] = ""
    shards: ClassVar[bool] = True

    def title(self, method: Method) -> str:
        """The method's label."""
        return method.label


NO_SYSTEM = NoSystem()
