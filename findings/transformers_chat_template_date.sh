#!/usr/bin/env bash
# A chat template that tells the model today's date, as those of several instruction-tuned models do, is to tell a fixed
#   one, so that prompts are the same tomorrow.
# Guess: strftime_now is a global of the template, and keyword arguments of apply_chat_template go to Jinja's render, where
#   they come before globals: apply_chat_template(..., strftime_now=fixed.strftime) tells the fixed day.
# Seen (transformers 5.23.0): the argument does come first, but as the text "<builtin_function_or_method>": functions are
#   replaced by text, and the template fails with "'str' object is not callable". A macro of that name, put before the
#   template, is what works.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 jinja2==3.1.6
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import datetime

import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

day = datetime.date(2025, 1, 1)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
told = "Today is {{ strftime_now('%d %b %Y') }}. {{ messages[0].content }}"


def render(template, **given):
    return tokenizer.apply_chat_template([{"role": "user", "content": "?"}], chat_template=template, tokenize=False, **given)


print(f"transformers {transformers.__version__}")
print("the argument as the template sees it:", seen := render("{{ strftime_now }}", strftime_now=day.strftime))
try:
    print("called:", called := render(told, strftime_now=day.strftime))
except TypeError as error:
    print("called:", called := f"TypeError: {error}")
macro = "{%- macro strftime_now(format) -%}01 Jan 2025{%- endmacro -%}"
print("with a macro before the template:", fixed := render(macro + told))
assert seen == "<builtin_function_or_method>", "the function arrives: the behaviour has changed"
assert called == "TypeError: 'str' object is not callable"
assert fixed == "Today is 01 Jan 2025. ?"
PYTHON
