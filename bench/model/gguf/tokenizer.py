"""The tokenizer of a GGUF file: built by transformers, then held against what the metadata say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.process.environment import quiet
from bench.process.validation import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_IDS = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}
# tokenizer.ggml.pre: GPT-2's way to cut a text into words, and the same after digits were cut apart (llama-vocab.cpp).
_AS_GPT2 = frozenset("gpt-2 phi-2 mpt olmo jais trillion exaone4".split())
_DIGITS_APART = frozenset("smollm starcoder refact command-r codeshell exaone minerva-7b".split())
# A word that is a token is that token, whatever the merges say; BOS comes first, unless the file says not.
_AS_LLAMA3 = frozenset("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 tekken".split())


def build(file: Path, metadata: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer that the metadata describe.

    Args:
        file: the GGUF file.
        metadata: of the file, with its tokens.

    Raises:
        ValueError: the file has no tokenizer, or one that transformers cannot build.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokens = metadata.get("tokenizer.ggml.tokens")
    if not tokens:
        raise ValueError(
            f"model.path={file.name} holds no tokenizer (no tokenizer.ggml.tokens); convert the model again with its "
            "tokenizer beside it, or take its safetensors (model=local)"
        )
    try:
        with quiet("transformers"):
            built = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).backend_tokenizer
    except Exception as error:  # whatever transformers and tokenizers make of a file
        raise ValueError(
            f"model.path={file.name}: its tokenizer ({metadata.get('tokenizer.ggml.model')}) cannot be built by "
            f"transformers ({one_line(error):.200}); take its safetensors (model=local)"
        ) from error
    _split_as_stated(built, file, metadata)
    state = json.loads(built.to_str())
    # Classes add their own special tokens behind the file's, such as GPT-2's <|endoftext|>; these have no embedding.
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < len(tokens)]
    if metadata.get("tokenizer.ggml.pre") in _AS_LLAMA3:
        state["model"]["ignore_merges"] = True
    numbers = {f"{name}_token": metadata.get(f"tokenizer.ggml.{key}") for name, key in _IDS.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        model_input_names=["input_ids", "attention_mask"],
        chat_template=metadata.get("tokenizer.chat_template"),
        add_bos_token=_opens_with_bos(metadata),
        add_eos_token=_closes_with_eos(metadata),
        **{name: None if number is None else tokens[number] for name, number in numbers.items()},
    )


def check(folder: Path, file: Path, metadata: dict[str, Any]) -> None:
    """Holds a tokenizer that was saved, as it is loaded again, against the metadata.

    Raises:
        ValueError: it is another one than the file describes.
    """
    from transformers import AutoTokenizer

    if wrong := differences(AutoTokenizer.from_pretrained(folder), metadata):
        raise ValueError(
            f"model.path={file.name}: transformers builds another tokenizer than the file describes: "
            f"{'; '.join(wrong)}; take its safetensors (model=local)"
        )


def differences(tokenizer: PreTrainedTokenizerBase, metadata: dict[str, Any]) -> list[str]:
    """Where a tokenizer is not what the metadata describe: tokens, special tokens, BOS and EOS, chat template."""
    tokens, found = metadata["tokenizer.ggml.tokens"], []
    wrong = [n for n, token in enumerate(tokens) if not _is_spelled(tokenizer, n, token)]
    if wrong:
        held = tokenizer.convert_ids_to_tokens(wrong[0])
        found.append(f"{len(wrong)} tokens differ, such as id {wrong[0]}, {held!r} for {tokens[wrong[0]]!r}")
    if len(tokenizer) != len(tokens):
        found.append(f"{len(tokenizer)} tokens for {len(tokens)}")
    for name, key in _IDS.items():
        number, stated = getattr(tokenizer, f"{name}_token_id"), metadata.get(f"tokenizer.ggml.{key}")
        if number != stated:
            found.append(f"{name}_token_id={number} for {key}={stated}")
    ids = tokenizer("a").input_ids
    for name, opens, stated in (
        ("BOS", ids[:1] == [tokenizer.bos_token_id], _opens_with_bos(metadata)),
        ("EOS", ids[-1:] == [tokenizer.eos_token_id], _closes_with_eos(metadata)),
    ):
        if opens != stated:
            found.append(f"{'a' if opens else 'no'} {name} is added to a text")
    if tokenizer.chat_template != metadata.get("tokenizer.chat_template"):
        found.append("another chat template")
    return found


def _is_spelled(tokenizer: PreTrainedTokenizerBase, number: int, token: str) -> bool:
    """Whether the id is of this token, as it stands or decoded; T5's blanks, which llama.cpp calls [PAD...], are."""
    if tokenizer.convert_ids_to_tokens(number) == token or token.startswith("[PAD"):
        return True
    return tokenizer.decode([number]) == token


def _opens_with_bos(metadata: dict[str, Any]) -> bool:
    """Whether BOS is put before a text; as in llama.cpp where the file does not say (llama-vocab.cpp)."""
    default = metadata.get("tokenizer.ggml.model") == "llama" or metadata.get("tokenizer.ggml.pre") in _AS_LLAMA3
    return bool(metadata.get("tokenizer.ggml.add_bos_token", default)) and "tokenizer.ggml.bos_token_id" in metadata


def _closes_with_eos(metadata: dict[str, Any]) -> bool:
    return bool(metadata.get("tokenizer.ggml.add_eos_token", False))


def _split_as_stated(backend: Any, file: Path, metadata: dict[str, Any]) -> None:
    """Gives a tokenizer the way to split texts that its file names; transformers takes GPT-2's for all that it lacks.

    Raises:
        ValueError: nothing is known of that way.
    """
    from tokenizers import decoders, pre_tokenizers

    stated = metadata.get("tokenizer.ggml.pre", "gpt-2")
    if isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
        if not metadata.get("tokenizer.ggml.add_space_prefix", True):
            backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
            parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
            backend.decoder = decoders.Sequence(parts)
    elif not isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel) or stated in _AS_GPT2:
        pass
    elif stated in _DIGITS_APART:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    else:
        raise ValueError(
            f"model.path={file.name}: transformers does not know how its tokenizer splits texts "
            f"(tokenizer.ggml.pre={stated}); take its safetensors (model=local)"
        )
