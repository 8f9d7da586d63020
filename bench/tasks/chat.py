"""A tokenizer's chat template: a prompt as a user's message, and the answer as the assistant's."""

from __future__ import annotations

import datetime
import functools
from typing import TYPE_CHECKING, Any, cast

import jinja2

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Some templates tell the model today's date, by date_string or strftime_now; here one day, so that prompts are the same
# tomorrow. The latter is a function, which transformers takes from a template alone, as a macro.
DAY = datetime.datetime(2025, 1, 1)
_ONE_DAY = "".join(f"|replace('%{code}', '{DAY.strftime(f'%{code}')}')" for code in "aAbBdHIjmMpSyY")
_MACRO = "{%- macro strftime_now(format) -%}{{ format" + _ONE_DAY + " }}{%- endmacro -%}"
_ANSWER = "ANSWER"


class Chat:
    """A tokenizer's chat template.

    Args:
        tokenizer: the model's.

    Raises:
        ValueError: it has no chat template, or one that takes no question and answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise ValueError(
                f"task.chat_template=true, but the tokenizer of {tokenizer.name_or_path} has no chat template; leave "
                "it at false, or take an instruction-tuned model"
            )
        self._tokenizer, self._template = tokenizer, tokenizer.get_chat_template()
        asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _ANSWER}]
        self._behind = self._rendered(asked, add_generation_prompt=False).rpartition(_ANSWER)[2]

    def render(self, messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text; as lm-eval asks for it.

        Args:
            messages: each with `role` and `content`.
            add_generation_prompt: whether an answer of the assistant is to follow; if not, the last message goes on.

        Raises:
            ValueError: the template refuses these messages, such as one of a system.
        """
        goes_on = not add_generation_prompt
        return self._rendered(messages, add_generation_prompt=add_generation_prompt, continue_final_message=goes_on)

    def _rendered(self, messages: list[dict[str, str]], **settings: Any) -> str:
        settings |= {"date_string": DAY.strftime("%d %b %Y"), "chat_template": _MACRO + self._template}
        try:
            return cast(str, self._tokenizer.apply_chat_template(messages, tokenize=False, **settings))
        except jinja2.TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(
                f"the chat template of {self._tokenizer.name_or_path} refuses messages of {roles}: {error}"
            ) from None

    @functools.cached_property
    def end(self) -> int:
        """The token that ends an answer: the special one that the template puts behind it, else EOS."""
        behind = self._tokenizer(self._behind.strip(), add_special_tokens=False).input_ids
        special = {*self._tokenizer.all_special_ids, *self._tokenizer.added_tokens_decoder}
        eos: int = self._tokenizer.eos_token_id
        return behind[0] if behind and behind[0] in special else eos

    @property
    def stop(self) -> str:
        """The text of that token, at which generation stops."""
        return cast(str, self._tokenizer.decode([self.end]))

    @property
    def key(self) -> list[Any]:
        """What its texts depend on."""
        return [self._template, self._tokenizer.special_tokens_map, str(DAY)]
