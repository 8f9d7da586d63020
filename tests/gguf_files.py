"""Tiny GGUF files, written as llama.cpp's convert_hf_to_gguf.py writes them: names, layout and metadata."""

import gguf
import torch
from gguf import GGMLQuantizationType as Type
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

# Every byte, three merges, a word, and what opens, closes, replaces and pads: ids 260 to 263.
SPECIAL = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
MERGES = ["Ġ a", "1 2", "Ġ Ġ"]
WHOLE = "cat"  # a token that no merges make
TOKENS = [*bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in MERGES), WHOLE, *SPECIAL.values()]
TEMPLATE = "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"
SIZES = {"vocab_size": len(TOKENS), "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64}
SIZES |= {"initializer_range": 0.3}
CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
}


def tiny(architecture="llama", **settings):
    """A random model, always the same; biases and norms are not what they are drawn as, so that losing one shows."""
    config_class, model_class = CLASSES[architecture]
    head = {"head_dim": 8} if architecture == "qwen2" else {}  # which knows no head_dim
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config_class(**SIZES | head | settings))
        for parameter in model.parameters():
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def write(
    path, model, architecture="llama", kind=Type.F32, *, tensors=None, special=SPECIAL, tokens=TOKENS, **metadata
):
    """Writes a GGUF file of a model.

    Args:
        kind: of the matrices; vectors are float32.
        tensors: others to write, or None for a tensor to leave out, by their names in the file.
        special: the special tokens that the file names.
        tokens: its token list; None for a file without a tokenizer.
        metadata: further values, or None to leave one out, by key with _ for a dot; ARCH is the architecture.
    """
    writer, config = gguf.GGUFWriter(path, architecture), model.config
    given = {
        "general.file_type": int(gguf.LlamaFileType.ALL_F32),
        "ARCH.context_length": config.max_position_embeddings,
        "ARCH.embedding_length": config.hidden_size,
        "ARCH.block_count": config.num_hidden_layers,
        "ARCH.feed_forward_length": config.intermediate_size,
        "ARCH.attention.head_count": config.num_attention_heads,
        "ARCH.attention.head_count_kv": config.num_key_value_heads,
        "ARCH.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "ARCH.rope.freq_base": theta(config),
    }
    if architecture != "qwen2":
        given |= {"ARCH.attention.key_length": config.head_dim, "ARCH.attention.value_length": config.head_dim}
    if architecture == "llama":
        given |= {"ARCH.rope.dimension_count": config.head_dim}
    if tokens is not None:
        numbers = {name: tokens.index(token) for name, token in special.items()}
        long = {"unk": "unknown", "pad": "padding"}
        given |= {f"tokenizer.ggml.{long.get(name, name)}_token_id": number for name, number in numbers.items()}
        given |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.chat_template": TEMPLATE}
        given |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": MERGES}
        types = [gguf.TokenType.CONTROL if token in SPECIAL.values() else gguf.TokenType.NORMAL for token in tokens]
        given |= {"tokenizer.ggml.token_type": [int(one) for one in types]}
    for key, value in (given | metadata).items():
        if value is not None:
            put(writer, key.replace("ARCH", architecture), value)
    for name, tensor in (named(model, architecture) | (tensors or {})).items():
        if tensor is not None:
            stored = kind if tensor.dim() > 1 else Type.F32
            writer.add_tensor(name, gguf.quantize(tensor.numpy(), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def theta(config):
    """The base of the rotary embedding, of full attention where a model has two."""
    rope = config.rope_parameters
    return rope.get("full_attention", rope)["rope_theta"]


def sentencepiece(**metadata):
    """Arguments of `write`: a sentencepiece vocabulary of as many tokens, as Llama 2's and Gemma's."""
    words = ["▁a", "▁b", "▁", "a", "b", "1"]
    tokens = [*SPECIAL.values(), *(f"<0x{byte:02X}>" for byte in range(len(TOKENS) - 10)), *words]
    types = [gguf.TokenType.CONTROL] * 4 + [gguf.TokenType.BYTE] * (len(TOKENS) - 10) + [gguf.TokenType.NORMAL] * 6
    given = {"model": "llama", "pre": "default", "merges": None, "token_type": [int(one) for one in types]}
    given["scores"] = [-float(number) for number in range(len(tokens))]
    return {"tokens": tokens} | {f"tokenizer.ggml.{key}": value for key, value in (given | metadata).items()}


def put(writer, key, value):
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def named(model, architecture):
    """The model's tensors by their names in a file: q and k of a Llama permuted, norms of a Gemma above by one."""
    config = model.config
    table = gguf.get_tensor_name_map(
        next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture), config.num_hidden_layers
    )
    found = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        (stem, _, end), laid = name.rpartition("."), tensor.detach()
        if architecture == "llama" and (stem.endswith(("q_proj", "k_proj"))):
            heads = config.num_attention_heads if stem.endswith("q_proj") else config.num_key_value_heads
            half = tensor.shape[0] // heads // 2
            laid = laid.reshape(heads, 2, half, -1).transpose(1, 2).reshape(laid.shape)
        if architecture.startswith("gemma") and stem.endswith("norm"):
            laid = laid + 1
        found[f"{table.get_name(stem)}.{end}"] = laid.contiguous()
    return found
