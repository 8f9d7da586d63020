"""python tests/benchmarks/gpu_check.py: all that this suite does on a GPU, in at most eight minutes.

The benchmark `gpu` with few samples; a cell in bfloat16 of Llama-3.2-1B's shapes with random weights, through
calibration, training, measures, scoring and export; and a sweep of two such cells with launch=workers. Prints seconds
and peak memory of each phase. Without a GPU it says so and ends with 0; --tiny does the same, the benchmark left out,
with a tiny Llama on whatever there is.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from process import ENVIRONMENT, fresh, output

if TYPE_CHECKING:
    from transformers import PreTrainedModel

os.environ.update(ENVIRONMENT)  # before anything imports torch

TINY = {"model_type": "llama", "vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}
CELL = ("rank=r8", "task=gsm_tiny", "model=local", "model.dtype=bfloat16", "train.precision=bf16")
CELL += ("train.learning_rate=2e-4", "cache.enabled=false")
SIZES = ("train.max_steps=20", "train.eval_steps=10", "measure.alignment_steps=10", "score.limit=32")
TINY_SIZES = ("train.max_steps=2", "train.batch_size=2", "task.calibration_samples=4", "task.calibration_batch_size=2")
TINY_SIZES += ("task.probe_samples=2", "task.eval_samples=2", "score.limit=2", "score.merged_samples=1")


def main() -> int:
    """Runs one part after another; 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python tests/benchmarks/gpu_check.py", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a tiny Llama, also without a GPU, to try this script")
    tiny = parser.parse_args().tiny
    import torch

    if not (tiny or torch.cuda.is_available()):
        print("no GPU: nothing to check")
        return 0
    parts: dict[str, Callable[[Path], str]] = {} if tiny else {"the benchmark gpu": _benchmark}
    parts |= {"a cell in bfloat16, exported": lambda folder: _cell(folder, tiny)}
    parts |= {"two cells with launch=workers": lambda folder: _sweep(folder, tiny)}
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fresh(_save_model, folder=folder / "model", tiny=tiny)  # it leaves nothing on the GPU
        for part, do in parts.items():
            began = time.perf_counter()
            try:
                text = do(folder)
            except Exception as error:  # the other parts run all the same
                failed, text = True, f"failed: {error}"
            print(f"{part}: {time.perf_counter() - began:.0f} s\n{text}\n", flush=True)
    return int(failed)


def _save_model(folder: Path, tiny: bool) -> None:
    """Random weights in bfloat16, with the embedded model's tokenizer, whose tokens are the first of any vocabulary."""
    import ours

    architecture = TINY if tiny else ours.composed("model=llama3_2_1b").model.architecture
    tokenizer = ours.composed("model=tiny_llama").model.load().tokenizer
    model = _model(architecture)
    model.config.pad_token_id, model.config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    model.config.bos_token_id = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _model(architecture: dict[str, Any]) -> PreTrainedModel:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**architecture), dtype=torch.bfloat16)


def _benchmark(folder: Path) -> str:
    """One repetition of few samples: two models of three contenders and a floor, a process each."""
    words = ("gpu", "--repetitions", "1", "--samples", "8", "--out", str(folder / "benchmarks"))
    return output("tests/benchmarks", *words)


def _cell(folder: Path, tiny: bool) -> str:
    import phases

    run = phases.cell(folder, "method=lora_ga", *_words(folder, tiny))
    began = time.perf_counter()
    output("-m", "bench.export", str(run), "--to", str(folder / "exported"))
    return f"{phases.table(run)}\nexport: {time.perf_counter() - began:.1f} s"


def _sweep(folder: Path, tiny: bool) -> str:
    import phases

    places = ("study=two", f"results_dir={folder}/results", f"cache.dir={folder}/cache")
    words = ("-m", "launch=workers", "method=hu,pissa", *_words(folder, tiny), "track=none", *places)
    output("-m", "bench.run", *words)
    runs = sorted(record.parent for record in folder.glob("results/two/*/record.json"))
    assert len(runs) == 2, f"{len(runs)} runs of 2 cells"
    return "\n".join(f"{run.name}\n{phases.table(run)}" for run in runs)


def _words(folder: Path, tiny: bool) -> tuple[str, ...]:
    return (*CELL, f"model.path={folder}/model", *(TINY_SIZES if tiny else SIZES))


if __name__ == "__main__":
    sys.exit(main())
