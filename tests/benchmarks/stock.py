"""What one would write today: PEFT, transformers.Trainer with batches padded to their longest row, and lm-eval.

The vocabulary projection is computed at every token, padding included, as models do that are given labels.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import ours
from cost import Cost, measured
from shape import TARGET_MODULES

TASK = """include: {definition}
task: arc_easy_local
dataset_path: json
dataset_name: null
dataset_kwargs: {{data_files: {{train: {rows}/train.jsonl, test: {rows}/test.jsonl}}, cache_dir: {cache}}}
validation_split: null
test_split: test
"""


@dataclass(frozen=True)
class Trained:
    """A finished training: its cost and, in seconds from its start, when each step had ended."""

    cost: Cost
    step_ends: list[float]


def train(overrides: tuple[str, ...], precision: str) -> Trained:
    """The examples that the suite's cell trains on, in the same order, in the same batches."""
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainerCallback

    from bench.train import order

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            ends.append(time.perf_counter())

    ends: list[float] = []
    with ours.silence(), tempfile.TemporaryDirectory() as scratch:
        cfg = ours.composed(*overrides)
        loaded = cfg.model.load()
        task = cfg.task.prepare(loaded, cfg.seed, cfg.score.split)
        drawn = order(len(task.train), cfg.train.max_steps * cfg.train.batch_size, cfg.seed)
        rows = [{"input_ids": row.input_ids, "labels": row.labels} for row in map(task.train.__getitem__, drawn)]
        sum(parameter.abs().sum().item() for parameter in loaded.model.parameters())  # brings mapped weights in
        with measured() as cost:
            began = time.perf_counter()
            model = get_peft_model(loaded.model, LoraConfig(r=8, lora_alpha=16, target_modules=list(TARGET_MODULES)))
            given = _arguments(scratch, cfg.train.max_steps, cfg.train.batch_size, precision)
            trainer = Trainer(model, given, _padded(loaded.tokenizer), rows, callbacks=[Clock()])
            trainer.train()
    return Trained(cost, [end - began for end in ends])


def cell(folder: str, data_root: str, num_steps: int, batch_size: int, num_items: int, precision: str) -> None:
    """A LoRA-GA cell: load, calibrate on four batches, train with three eval losses, score."""
    with ours.silence(), tempfile.TemporaryDirectory() as scratch:
        _cell(folder, Path(data_root, "arc_easy"), Path(scratch), num_steps, batch_size, num_items, precision)


def _cell(
    folder: str, data: Path, scratch: Path, num_steps: int, batch_size: int, num_items: int, precision: str
) -> None:
    import lm_eval.tasks
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, set_seed

    from peers import lora_ga_factors, lora_ga_gradient

    set_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [_encoded(tokenizer, json.loads(line)) for line in (data / "train.jsonl").read_text().splitlines()]
    held_out, rows = rows[: 4 * batch_size], rows[4 * batch_size :]
    collate = _padded(tokenizer)
    lora_ga_gradient(model, [collate(rows[at : at + batch_size]) for at in range(0, 4 * batch_size, batch_size)], 8)
    adapted = lora_ga_factors(model, 8)
    given = _arguments(str(scratch), num_steps, batch_size, precision, eval_strategy="steps", eval_steps=num_steps // 3)
    Trainer(adapted, given, collate, rows, held_out).train()
    definition = Path(lm_eval.tasks.__file__).parent / "arc" / "arc_easy.yaml"
    (scratch / "task.yaml").write_text(TASK.format(definition=definition, rows=data, cache=scratch))
    found = lm_eval.simple_evaluate(
        HFLM(pretrained=adapted, tokenizer=tokenizer, batch_size=64),
        tasks=[str(scratch / "task.yaml")],
        task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
        limit=num_items,
    )
    assert found["n-samples"]["arc_easy_local"]["effective"] == num_items


def _encoded(tokenizer: Any, row: dict[str, Any]) -> dict[str, list[int]]:
    """The prompt of lm-eval's arc_easy with the right answer, which alone is learned."""
    choices = row["choices"]
    answer = choices["text"][choices["label"].index(row["answerKey"])]
    prompt = tokenizer(f"Question: {row['question']}\nAnswer:").input_ids
    target = [*tokenizer(f" {answer}", add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    return {"input_ids": prompt + target, "labels": [-100] * len(prompt) + target}


def _padded(tokenizer: Any) -> Any:
    from transformers import DataCollatorForSeq2Seq

    return DataCollatorForSeq2Seq(tokenizer, padding=True)


def _arguments(scratch: str, num_steps: int, batch_size: int, precision: str, **others: Any) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(
        scratch,
        max_steps=num_steps,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        learning_rate=2e-4,
        lr_scheduler_type="linear",
        warmup_steps=10,
        bf16=precision == "bf16",
        use_cpu=True,
        train_sampling_strategy="sequential",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **others,
    )
