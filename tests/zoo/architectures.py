"""Tiny random models of many architectures, made with transformers' configuration classes, and a tokenizer for each."""

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from tokenizers import processors
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel, ViTImageProcessorPil

import bench.model

PAD, EOS, BOS, VOCABULARY = 0, 1, 512, 520
POSITIONS = 192
PIXELS = 16  # a side of an image

# Sizes under the names that most configurations have; attention is wider than the model where they can say so.
SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
POSITIONED = {"max_position_embeddings": POSITIONS}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8} | POSITIONED
TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": BOS}
SPREAD = {"initializer_range": 0.3}
LLAMA_LIKE = SIZES | GROUPED | SPREAD
ENCODER = SIZES | POSITIONED | SPREAD
PATCHES = {"image_size": PIXELS, "patch_size": 4}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 20, "num_experts": 4}
EAGER = "model.attention=eager"
DECODER_START = {"decoder_start_token_id": PAD}
T5_SIZES = {"d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4, "initializer_factor": 1.0}
BART_SIZES = {
    f"{side}_{size}": value
    for side in ("encoder", "decoder")
    for size, value in {"layers": 2, "attention_heads": 4, "ffn_dim": 40}.items()
}


@dataclass(frozen=True)
class Architecture:
    """A model of the zoo.

    Attributes:
        kind: causal, seq2seq, encoder or vision; an encoder is saved without its head, a vision model with one.
        config, model: names of transformers' classes; the model's is that of the checkpoint.
        settings: of the configuration, beside TOKENS.
        template: what the tokenizer puts around a text.
        overrides: of a run with this model, beside its path.
    """

    kind: str
    config: str
    model: str
    settings: dict
    template: str = "$A"
    overrides: tuple[str, ...] = ()

    def build(self) -> PreTrainedModel:
        """The model with weights drawn by a fixed seed, in evaluation mode."""
        common = {} if self.kind == "vision" else TOKENS
        config: PretrainedConfig = getattr(transformers, self.config)(**common | self.settings)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return getattr(transformers, self.model)(config).eval()

    def save(self, folder: Path) -> Path:
        """Writes model, and tokenizer or image processor, as save_pretrained does; returns the folder."""
        self.build().save_pretrained(folder)
        if self.kind == "vision":
            ViTImageProcessorPil(size={"height": PIXELS, "width": PIXELS}).save_pretrained(folder)
            return folder
        tokenizer = AutoTokenizer.from_pretrained(Path(bench.model.__file__).parent / "embedded" / "tiny_llama")
        tokenizer.add_special_tokens({"bos_token": "<s>"})
        pair = f"{self.template} {self.template.replace('$A', '$B')}"
        special = [("<s>", BOS), ("</s>", EOS)]
        tokenizer.backend_tokenizer.post_processor = processors.Sequence(
            [
                tokenizer.backend_tokenizer.post_processor,
                processors.TemplateProcessing(single=self.template, pair=pair, special_tokens=special),
            ]
        )
        tokenizer.model_max_length = POSITIONS
        tokenizer.save_pretrained(folder)
        return folder


def causal(config: str, settings: dict, template: str = "$A", *overrides: str, model: str | None = None):
    """A language model, as it is generally saved."""
    name = model or config.replace("TextConfig", "Config").replace("Config", "ForCausalLM")
    return Architecture("causal", config, name, settings, template, overrides)


def encoder(config: str, settings: dict, *overrides: str, model: str | None = None):
    """An encoder without a head, whose tokenizer puts <s> and </s> around a text."""
    return Architecture(
        "encoder", config, model or config.replace("Config", "Model"), settings, "<s> $A </s>", overrides
    )


def vision(config: str, settings: dict, *overrides: str):
    """A classifier of images with the head of other classes, as it is generally saved."""
    model = config.replace("Config", "ForImageClassification")
    return Architecture("vision", config, model, settings | {"num_labels": 3}, overrides=overrides)


ZOO = {
    "llama": causal("LlamaConfig", LLAMA_LIKE),
    "mistral": causal("MistralConfig", LLAMA_LIKE | {"sliding_window": 16}, "<s> $A"),
    "qwen2": causal("Qwen2Config", SIZES | POSITIONED | SPREAD | {"num_key_value_heads": 2}, "$A </s>"),
    "qwen3": causal("Qwen3Config", LLAMA_LIKE, "<s> $A </s>"),
    "gemma2": causal("Gemma2Config", LLAMA_LIKE | {"query_pre_attn_scalar": 8, "sliding_window": 16}, "<s> $A", EAGER),
    "gemma3": causal(
        "Gemma3TextConfig",
        LLAMA_LIKE | {"query_pre_attn_scalar": 8, "sliding_window": 16},
        "<s> $A",
        model="Gemma3ForCausalLM",
    ),
    "phi3": causal("Phi3Config", SIZES | POSITIONED | SPREAD | {"num_key_value_heads": 2}, "<s> $A"),
    "falcon": causal("FalconConfig", SIZES | SPREAD | {"ffn_hidden_size": 40}),
    "pythia": causal("GPTNeoXConfig", SIZES | POSITIONED | SPREAD),
    "opt": causal(
        "OPTConfig",
        SIZES | POSITIONED | {"ffn_dim": 40, "word_embed_proj_dim": 24, "init_std": 0.3},
        "<s> $A",
    ),
    "bloom": causal("BloomConfig", {"hidden_size": 24, "n_layer": 2, "n_head": 4} | SPREAD, "$A", EAGER),
    "gpt2": causal(
        "GPT2Config",
        {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_inner": 40, "n_positions": POSITIONS} | SPREAD,
        model="GPT2LMHeadModel",
    ),
    "mixtral": causal("MixtralConfig", LLAMA_LIKE | {"num_local_experts": 4, "num_experts_per_tok": 2}, "<s> $A"),
    "qwen3_moe": causal("Qwen3MoeConfig", LLAMA_LIKE | EXPERTS),
    "mamba": causal(
        "MambaConfig",
        {"hidden_size": 24, "state_size": 8, "num_hidden_layers": 2, "time_step_rank": 8} | SPREAD,
        "$A",
        EAGER,
        "model.target_modules=[in_proj,x_proj]",
    ),
    "modernbert": encoder("ModernBertConfig", ENCODER | {"sep_token_id": EOS, "cls_token_id": BOS}),
    "bert": encoder("BertConfig", ENCODER, model="BertForMaskedLM"),  # so without a pooler
    "roberta": encoder("RobertaConfig", ENCODER),
    "albert": encoder("AlbertConfig", ENCODER | {"embedding_size": 16, "num_hidden_layers": 3, "num_hidden_groups": 1}),
    "distilbert": encoder(
        "DistilBertConfig",
        {"dim": 24, "hidden_dim": 40, "n_layers": 2, "n_heads": 4} | POSITIONED | SPREAD,
    ),
    "deberta_v2": encoder(
        "DebertaV2Config",
        ENCODER | {"relative_attention": True, "pos_att_type": "c2p|p2c", "share_att_key": False},
        EAGER,
    ),
    "llama_classifier": Architecture(
        "encoder", "LlamaConfig", "LlamaModel", LLAMA_LIKE, "<s> $A </s>", ("model.kind=encoder",)
    ),
    "t5": Architecture("seq2seq", "T5Config", "T5ForConditionalGeneration", T5_SIZES | DECODER_START, "$A </s>"),
    "t5_gated": Architecture(
        "seq2seq",
        "T5Config",
        "T5ForConditionalGeneration",
        T5_SIZES | DECODER_START | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        "$A </s>",
    ),
    "bart": Architecture(
        "seq2seq",
        "BartConfig",
        "BartForConditionalGeneration",
        BART_SIZES | POSITIONED | {"d_model": 24, "init_std": 0.3, "decoder_start_token_id": EOS}
        | {"forced_eos_token_id": None},
        "<s> $A </s>",
    ),
    "vit": vision("ViTConfig", SIZES | PATCHES | SPREAD),
    "deit": vision("DeiTConfig", SIZES | PATCHES | SPREAD),
    "dinov2": vision("Dinov2Config", SIZES | PATCHES | SPREAD | {"mlp_ratio": 2}),
    "swin": vision(
        "SwinConfig",
        PATCHES | SPREAD | {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 4], "window_size": 2, "mlp_ratio": 2.0}
        | {"drop_path_rate": 0.0},
    ),
    "resnet": vision("ResNetConfig", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, EAGER),
}  # fmt: skip
