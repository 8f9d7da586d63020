"""The papers' parameter counts come out of the configurations alone, on the meta device."""

import pytest
import torch

from bench import adapter
from bench.listing import num_trainable
from bench.methods.base import Rank
from bench.methods.hu import Hu
from bench.methods.lora_sb import LoRASB

LLAMA_TARGETS = 7  # q, k, v, o, gate, up, down


@pytest.mark.parametrize(
    ("model", "method", "rank", "published"),
    [
        ("mistral_7b", "hu", "r32", "83.89"),  # LoRA-SB's tables print 83.88 M, cut off
        ("mistral_7b", "lora_sb", "r96", "2.06"),
        ("mistral_7b", "lora_xs", "r64", "0.92"),
        ("mistral_7b", "lora_sb", "r32", "0.23"),
        ("llama3_2_3b", "lora_sb", "r96", "1.81"),
        ("llama3_2_3b", "lora_xs", "r32", "0.20"),
        ("gemma2_9b", "lora_sb", "r96", "2.71"),
        ("gemma2_9b", "lora_xs", "r64", "1.20"),
        ("llama2_7b", "lora_ga", "r8", "19.99"),
    ],
)
def test_millions_of_trainable_parameters_are_the_papers(compose_run, model, method, rank, published):
    count = num_trainable(compose_run(f"model={model}", f"method={method}", f"rank={rank}"))
    assert f"{count / 1e6:.2f}" == published


@pytest.mark.parametrize(
    ("model", "layers", "rank"), [("mistral_7b", 32, 96), ("llama3_2_3b", 28, 96), ("gemma2_9b", 42, 96)]
)
def test_lora_sb_and_lora_xs_train_r_squared_numbers_a_layer_whatever_its_size(compose_run, model, layers, rank):
    for method in ("lora_sb", "lora_xs"):
        count = num_trainable(compose_run(f"model={model}", f"method={method}", f"rank=r{rank}"))
        assert count == LLAMA_TARGETS * layers * rank**2


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("mistral_7b", 7_241_732_096),
        ("llama2_7b", 6_738_415_616),
        ("llama3_2_3b", 3_212_749_824),
        ("gemma2_9b", 9_241_705_984),
        ("smollm2_135m", 134_515_008),
    ],
)
def test_an_architecture_has_as_many_parameters_as_its_model_card_says(compose_run, model, parameters):
    assert num_trainable(compose_run(f"model={model}", "method=full_ft")) == parameters


def counted(model, method, rank, targets):
    with torch.device("meta"):
        wrapped, _ = adapter.add(model, method, rank, adapter.target_layers(model, targets))
    return sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)


def test_t5_base_with_all_linear_layers_at_r8_is_lora_gas_3_24_million():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=768, d_ff=3072, d_kv=64, num_layers=12, num_heads=12)
    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
    assert counted(model, Hu(), Rank("r8", 8, 16), ("q", "k", "v", "o", "wi", "wo")) == 3_244_032


@pytest.mark.parametrize(
    ("method", "r", "published"), [(Hu(), 8, 2_162_688), (LoRASB(), 24, 55_296)], ids=["lora", "lora_sb"]
)
def test_roberta_large_with_lora_sbs_four_modules_a_layer_is_its_tables(method, r, published):
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=50265, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
    )
    with torch.device("meta"):
        model = RobertaModel(config, add_pooling_layer=False)
    # query, value, attention.output.dense and output.dense, but not intermediate.dense
    layers = adapter.target_layers(model, ("query", "value", "dense"))
    chosen = {name: layer for name, layer in layers.items() if "intermediate" not in name}
    assert len(chosen) == 24 * 4
    with torch.device("meta"):
        wrapped, _ = adapter.add(model, method, Rank(f"r{r}", r, 2 * r), chosen)
    assert sum(p.numel() for p in wrapped.parameters() if p.requires_grad) == published
