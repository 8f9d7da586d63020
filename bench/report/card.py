"""The model card of an exported adapter: what it was trained from, on and how, what it scored, and how to load it."""

from __future__ import annotations

from typing import Any

import yaml

from bench import __version__
from bench.report.judge.metrics import scale_of
from bench.report.judge.statistics import estimate
from bench.runs.record import Record
from bench.runs.record_parts import Score

_CLASSES = {
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "encoder": "AutoModelForSequenceClassification",
    "vision": "AutoModelForImageClassification",
}


def model_card(record: Record) -> str:
    """Markdown with the metadata that the Hugging Face Hub reads; it names no folder of this machine and no licence.

    Args:
        record: of a completed run that trained an adapter.
    """
    config = record.config.model_dump()
    model, task, train, rank = config["model"], config["task"], config["train"], config["rank"]
    command, published = record.command, model["source"] == "hub"
    base = model["path"] if published else model["name"]
    metadata: dict[str, Any] = {"base_model": base} if published else {}
    metadata |= {"library_name": "peft", "tags": ["lora", "lora-init-bench"]}
    place = f'"{base}", revision="{record.model.revision}"' if published else '"BASE_MODEL"'
    where = "" if published else f"  # the folder of {base}"
    kind = record.model.kind or "causal"  # which records from before there were others leave out
    classes = task["datasets"][task["train"][0]]["classification"] if record.model.is_classifier else None
    num_labels = f", num_labels={classes['num_labels']}" if classes else ""
    batch_size = train["batch_size"] * train["gradient_accumulation_steps"]
    lines = [
        "---",
        yaml.safe_dump(metadata, sort_keys=False).rstrip(),
        "---",
        f"# {record.label} on {task['name']}",
        "",
        f"A LoRA adapter, initialised by {record.label} (`method={config['method']['name']}`) and trained by "
        f"lora-init-bench {__version__}.",
        "",
        f"- **Base model**: {base}, {'commit' if published else 'sha256'} {record.model.revision}",
        f"- **Trained**: r = {rank['r']}, lora_alpha = {rank['lora_alpha']:g}; what is exported may have another r and "
        "scaling (adapter_config.json)",
        f"- **Task**: {', '.join(task['train'])}, {record.data.num_train} examples; {train['max_steps']} steps of "
        f"{batch_size}, learning rate {train['learning_rate']:g}, seed {config['seed']}",
        *([f"- **Command**: `{command}`"] if command and "model.path=" not in command else []),
        "",
        f"Scores on the {config['score']['split']} split, with 95 % intervals over the items of this one run:",
        "",
        "| dataset | metric | value | items |",
        "|:--|:--|--:|--:|",
        *map(_row, record.scores),
        "",
        "```python",
        "from peft import PeftModel",
        f"from transformers import {_CLASSES[kind]}",
        "",
        f"base = {_CLASSES[kind]}.from_pretrained({place}{num_labels}){where}",
        'model = PeftModel.from_pretrained(base, "FOLDER")  # of this file',
        "```",
    ]
    return "\n".join(lines) + "\n"


def _row(score: Score) -> str:
    value = "–"
    if score.value is not None:
        found = estimate([score.value], score.stderr, scale_of(score.metric), score.num_examples)
        value = f"{score.value:.4g}"
        value += "" if found.low is None or found.high is None else f" [{found.low:.4g}, {found.high:.4g}]"
    return f"| {score.task} | {score.metric} | {value} | {score.num_examples} |"
