"""Tokens a second of training: a run of the suite, measures off, against PEFT and transformers.Trainer as they come.

Both take the same examples in the same order, the same TrainingArguments and the same LoRA (r = 8, B = 0), without
eval losses. The plain side's one callback reads the clock. Counted from the end of the first step to that of the
last: what Trainer sets up, and the pages that the first step touches, would hide a difference between two short runs.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import ours
from process import Options, interleaved
from shape import LLAMA_21M, TARGET_MODULES
from table import Goal, Report, Row

CELL = ("method=hu", "rank=r8", "task=gsm_tiny", "measure=none", "train.eval_steps=0", "score.limit=2")
STEPS = {"tiny_llama": 90, "llama_21m": 10}
GOAL = Goal(1.0, at_least=True)


def run(options: Options) -> Report:
    """Both sides in turns, on the embedded model and on a larger one of random weights."""
    repetitions = options.repetitions or 5  # the two sides lie closer together than single runs of one side
    with tempfile.TemporaryDirectory() as folder:
        models = {"tiny_llama": ("model=tiny_llama",), "llama_21m": _save_larger(Path(folder))}
        contenders: dict[str, Callable[[], float]] = {}
        for name, words in models.items():
            overrides = (*CELL, *words, f"train.max_steps={STEPS[name]}")
            contenders[f"{name}, ours"] = functools.partial(_ours, *overrides)
            contenders[f"{name}, plain"] = functools.partial(_plain, *overrides)
        for side in (_ours, _plain):
            side(*CELL, "model=tiny_llama", "train.max_steps=2")  # libraries that start lazily start here
        rates = interleaved(contenders, repetitions)
    rows = [
        Row(name, "tokens/s", rates[f"{name}, ours"], rates[f"{name}, plain"], "PEFT + Trainer", GOAL)
        for name in models
    ]
    larger = asdict(LLAMA_21M) | {"num_parameters": LLAMA_21M.num_parameters()}
    return Report(rows, {"run": CELL, "steps": STEPS, "llama_21m": larger}, repetitions)


def _ours(*overrides: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        curve = ours.run_cell(Path(folder), *overrides).curve
    return (curve[-1]["tokens"] - curve[0]["tokens"]) / (curve[-1]["seconds"] - curve[0]["seconds"])


def _plain(*overrides: str) -> float:
    from peft import LoraConfig, get_peft_model
    from transformers import PrinterCallback, Trainer, TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            ended.append(time.perf_counter())

    ended: list[float] = []
    with tempfile.TemporaryDirectory() as folder, ours.silence():
        data = ours.training_data(Path(folder), *overrides)
        config = LoraConfig(r=8, lora_alpha=16, target_modules=list(TARGET_MODULES))
        trainer = Trainer(
            model=get_peft_model(data.model, config),
            args=data.arguments,
            train_dataset=data.examples,
            data_collator=data.collate,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Clock())
        trainer.train()
    first = data.arguments.per_device_train_batch_size * data.arguments.gradient_accumulation_steps
    return sum(len(example.input_ids) for example in data.examples[first:]) / (ended[-1] - ended[0])


def _save_larger(folder: Path) -> tuple[str, ...]:
    """Writes the larger model with the embedded model's tokenizer; returns the words that choose it."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = ours.composed("model=tiny_llama").model.load().tokenizer
    model = LLAMA_21M.model()
    model.config.pad_token_id, model.config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    model.config.bos_token_id = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ("model=local", f"model.path={folder}")
