#!/usr/bin/env bash
# Rows as dicts, of which a later one has a field that the first one lacks.
# Guess: datasets.Dataset.from_list makes a column of each field and fills the rows without it with None, as
#   datasets.load_dataset("json") does for the same rows in a file, or raises.
# Seen (datasets 5.2.0): the first row alone says which columns there are. The field is dropped from every row without a
#   word, while a field that only the first row has becomes None in the others.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0
cd "$folder"
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import json
from pathlib import Path

import datasets

rows = [{"question": "one"}, {"question": "two", "hint": "it is even"}]
Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
of_list = datasets.Dataset.from_list(rows).to_list()
of_file = datasets.load_dataset("json", data_files="rows.jsonl", split="train").to_list()
turned = datasets.Dataset.from_list(rows[::-1]).to_list()
print(f"datasets {datasets.__version__}")
print("from_list:", of_list)
print("from_list, turned round:", turned)
print("load_dataset of the same rows:", of_file)
assert of_list == [{"question": "one"}, {"question": "two"}], "the field is kept: the behaviour has changed"
assert turned == [{"question": "two", "hint": "it is even"}, {"question": "one", "hint": None}]
assert of_file == [{"question": "one", "hint": None}, {"question": "two", "hint": "it is even"}]
PYTHON
