"""lora-init-bench: a reproducible comparison of initialisation schemes for low-rank fine-tuning.

`bench.load(STUDY)` gives the results of a study as data frames, comparisons and figures (bench/report/README.md).
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.report.results import load as load

__version__ = "0.1.0"

# A thread that waits for others at the end of a parallel region spins before it sleeps. Where other programs need the
# cores, long spinning keeps the very thread from its core that is waited for: a step takes a hundred times as long.
# OpenMP runtimes read this once, when torch is imported: GNU's (turns), LLVM's and Intel's (milliseconds).
BOUNDED_SPINNING = {"GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "1"}
if os.environ.keys().isdisjoint({"OMP_WAIT_POLICY", *BOUNDED_SPINNING}):
    os.environ.update(BOUNDED_SPINNING)


def __getattr__(name: str) -> Any:
    """Imports the reports, and with them pandas, when `bench.load` is first asked for: every command imports bench."""
    if name == "load":
        return importlib.import_module("bench.report.results").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
