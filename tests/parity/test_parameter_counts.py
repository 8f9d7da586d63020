"""Published parameter counts, of models and of what methods train, come out of the configurations alone."""

import dataclasses
import functools
import math
import re

import pytest
import torch
from omegaconf import OmegaConf

from bench.methods.base import Rank
from bench.model import adapter
from bench.model.kinds import CLASSIFIERS
from bench.model.layers import heads, target_layers
from bench.model.load import Model
from bench.plan.methods_table import num_trainable
from bench.study.folders import CONF
from bench.systems.none import NO_SYSTEM
from built_methods import built
from systems_built import built_system

LLAMA_TARGETS = 7  # q, k, v, o, gate, up, down
NUM_LABELS = 2

# Of an encoder with its pooler, and of a vision model, without a head; of every other model with its language head.
PUBLISHED = {
    "bert_base": 109_482_240,  # 110 M in Devlin et al. 2019, Section 3
    "roberta_base": 124_645_632,  # 125 M in fairseq's table of RoBERTa models
    "roberta_large": 355_359_744,  # 355 M in Liu et al. 2019, Section 5
    "vit_base": 85_798_656,  # 86 M in Dosovitskiy et al. 2021, Table 1
    "vit_large": 303_301_632,  # 307 M there
    "tiny_vit": 319_584,  # in its own file
    "minilm": 22_713_216,  # 22.7 M on the Hub
    "t5_base": 222_903_552,  # about 220 M in Raffel et al. 2020, Section 3.1.1
    "bart_large": 406_291_456,  # 400 M in fairseq's table of BART models
    "tiny_t5": 189_504,  # 0.2 M in its own file
    "tiny_llama": 803_968,  # 0.8 M in its own file
    "smollm2_135m": 134_515_008,  # 135 M on the Hub
    "smollm2_135m_gguf": 134_515_008,
    "qwen2_5_0_5b": 494_032_768,  # 0.49 B on its model card
    "tinyllama_1_1b": 1_100_048_384,  # 1.1 B in Zhang et al. 2024
    "llama3_2_1b": 1_235_814_400,  # 1.23 B on its model card
    "llama3_2_3b": 3_212_749_824,  # 3.21 B on its model card
    "tiny_llama_w32": 62_752,  # in their own files
    "tiny_llama_w64": 217_664,
    "llama_7b": 6_738_415_616,  # the architecture of Llama 2
    "llama2_7b": 6_738_415_616,  # 6.74 B on the Hub
    "mistral_7b": 7_241_732_096,  # 7.24 B on the Hub
    "gemma2_9b": 9_241_705_984,  # 9.24 B on the Hub
}
USERS_OWN = {"local"}  # there is no such model until the user names a folder

FILES = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
NAMED = sorted(set(FILES) - USERS_OWN)


def values(name):
    return OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml"))


@functools.cache
def read(name):
    model = Model(**values(name))
    if model.source == "package":
        pytest.importorskip(model.path.partition("/")[0])
    return model


def skeleton(name):
    return read(name).skeleton(num_labels=NUM_LABELS)


@pytest.mark.parametrize("name", FILES)
def test_a_models_file_says_everything_and_under_its_own_name(name):
    given = values(name)
    stated = {field.name for field in dataclasses.fields(Model)} - {"architecture", "gguf_file"}
    assert set(given) - {"architecture", "gguf_file"} == stated
    assert given["name"] == name
    assert ("architecture" in given) == (given["source"] == "hub")


@pytest.mark.parametrize("name", [name for name in NAMED if values(name)["source"] == "hub"])
def test_a_model_of_the_hub_is_one_commit(name):
    assert re.fullmatch("[0-9a-f]{40}", read(name).revision)


@pytest.mark.parametrize("name", NAMED)
def test_a_model_has_as_many_parameters_as_published(name):
    assert name in PUBLISHED, (
        f"conf/model/{name}.yaml is new: add its published number of parameters here, with a source"
    )
    model = skeleton(name)
    # BERT's head is the labels' layer alone; RoBERTa's has one more, in the pooler's place and of the pooler's size.
    labels = NUM_LABELS * (model.config.hidden_size + 1) if read(name).kind in CLASSIFIERS else 0
    assert model.num_parameters() - labels == PUBLISHED[name]


@pytest.mark.parametrize("name", NAMED)
def test_every_target_module_is_there_and_no_head_among_them(name):
    model = skeleton(name)
    for target in read(name).target_modules:
        layers = target_layers(model, (target,))
        assert layers, f"{target} matches nothing"
        assert not any(layer is model.get_output_embeddings() for layer in layers.values())
        assert not any(path.partition(".")[0] in heads(model) for path in layers)


@pytest.mark.parametrize("name", NAMED)
def test_a_model_has_the_attention_that_its_file_chooses(name):
    model = skeleton(name)
    with torch.device("meta"):
        rebuilt = type(model)._from_config(model.config, attn_implementation=read(name).attention)
    assert rebuilt.config._attn_implementation == read(name).attention


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


@pytest.mark.parametrize("model", ["mistral_7b", "smollm2_135m"])
def test_full_fine_tuning_trains_all_that_is_published(compose_run, model):
    assert num_trainable(compose_run(f"model={model}", "method=full_ft")) == PUBLISHED[model]


def in_adapters(name, method, rank):
    """How many numbers the method trains in the layers that the model's file names: papers leave the head out."""
    model = skeleton(name)
    layers = target_layers(model, read(name).target_modules)
    with torch.device("meta"):
        wrapped, _ = adapter.add(model, method, rank, layers)
    trained = {path: parameter for path, parameter in wrapped.named_parameters() if parameter.requires_grad}
    return sum(parameter.numel() for path, parameter in trained.items() if "lora_" in path)


@pytest.mark.parametrize(("method", "r"), [("hu", 8), ("asymmetry_b", 16), ("asymmetry_a", 16)])
def test_one_factor_of_bart_at_twice_the_rank_trains_as_much_as_lora_the_papers_share(method, r):
    layers = target_layers(skeleton("bart_large"), read("bart_large").target_modules)
    assert len(layers) == 3 * (12 + 2 * 12)  # q, k, v of the encoder, the decoder, and the decoder's cross-attention
    count = in_adapters("bart_large", built(method), Rank(f"r{r}", r, 2 * r))
    assert f"{100 * count / PUBLISHED['bart_large']:.2f}" == "0.44"


@pytest.mark.parametrize(
    ("model", "method", "r", "num_layers", "published"),
    [
        ("t5_base", "hu", 8, None, 3_244_032),  # LoRA-GA's 3.24 million, of all linear layers
        ("roberta_large", "hu", 8, 24 * 4, 2_162_688),  # LoRA-SB's table: its four modules a layer are query, value,
        ("roberta_large", "lora_sb", 24, 24 * 4, 55_296),  # attention.output.dense and output.dense
    ],
)
def test_the_adapters_of_encoders_have_as_many_parameters_as_published(model, method, r, num_layers, published):
    layers = target_layers(skeleton(model), read(model).target_modules)
    assert num_layers in (None, len(layers))
    assert in_adapters(model, built(method), Rank(f"r{r}", r, 2 * r)) == published


def numbers_of_a_layer(name, out, into, r):
    """How many numbers a method or a system trains in a layer, where those are not those of A and B."""
    both = r * (out + into)
    adalora = math.ceil(1.5 * r) * (out + into + 1)
    return {
        "psoft": r * r, "giva": r + out, "lora_null_v2": out * r, "sorsa": both + r, "moslora": both + r * r,
        "nlora": both + r * r, "stella": both + r * r, "lora_fa": out * r, "adalora": adalora, "sora": both + r,
        "kasa": both + r, "xgblora": out + into, "flora": out * into,
    }.get(name, both)  # fmt: skip


SYSTEMS = sorted({path.stem for path in (CONF / "system").glob("*.yaml")} - {"none"})
NEW = "psoft giva lora_null_v2 sorsa moslora nlora stella nzlora lora_da astra".split()


@pytest.mark.parametrize("name", [*NEW, *SYSTEMS])
def test_methods_and_systems_train_as_many_numbers_as_their_form_has(name):
    method = built(name) if name in NEW else built("full_ft" if name == "flora" else "hu")
    system = built_system(name, rank_r=4) if name in SYSTEMS else NO_SYSTEM
    layers = target_layers(model := skeleton("tiny_llama"), read("tiny_llama").target_modules)
    shapes = [(layer.out_features, layer.in_features) for layer in layers.values()]
    with torch.device("meta"):
        wrapped, _ = adapter.add(model, method, Rank("r4", 4, 8), layers, system=system)
    expected = sum(numbers_of_a_layer(name, *shape, 4) for shape in shapes)
    assert adapter.count_parameters(wrapped, trainable=True)[0] == expected
