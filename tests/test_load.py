"""What a checkpoint must hold, what is drawn anew, and which layers a model lets adapt."""

import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    RobertaForMaskedLM,
)

from bench.init import stage
from bench.init.calibrate.cached import key
from bench.methods.base import PLAIN, Rank
from bench.model import adapter, export, weights
from bench.model.layers import heads, left_out, target_layers
from bench.model.limits import check_precision
from bench.model.load import Model
from bench.tasks import Task
from bench.tasks.examples import Example, collate
from built_methods import built
from models import PAD, SEP, random_batch, tiny_bert, tiny_llama, tiny_roberta, tiny_t5, word_tokenizer
from starts import start

RANK = Rank("r3", 3, 6)
SIZES = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}


def random(architecture, config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return architecture(config)


def tied_llama():
    return random(LlamaForCausalLM, LlamaConfig(**SIZES, **ATTENTION, tie_word_embeddings=True))


def tiny_mixtral():
    config = MixtralConfig(**SIZES, **ATTENTION, num_local_experts=4, num_experts_per_tok=2, initializer_range=0.3)
    return random(MixtralForCausalLM, config)


def tiny_qwen3_moe():
    """Its first layer is dense."""
    own = {"moe_intermediate_size": 16, "num_experts": 4, "mlp_only_layers": [0]}
    return random(Qwen3MoeForCausalLM, Qwen3MoeConfig(**SIZES, **ATTENTION, **own))


def tiny_gpt2():
    return random(
        GPT2LMHeadModel, GPT2Config(vocab_size=50, n_embd=24, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=SEP)
    )


def tiny_mamba():
    return random(MambaForCausalLM, MambaConfig(vocab_size=50, hidden_size=24, num_hidden_layers=2, state_size=4))


def tiny_albert():
    config = AlbertConfig(vocab_size=50, embedding_size=12, hidden_size=24, intermediate_size=40, num_attention_heads=4)
    return random(AlbertForMaskedLM, config)


def tiny_deberta():
    config = DebertaV2Config(
        vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4
    )
    return random(DebertaV2ForMaskedLM, config)


MASKED = {
    "bert": lambda: random(BertForMaskedLM, tiny_bert().config),
    "roberta": lambda: random(RobertaForMaskedLM, tiny_roberta().config),
    "albert": tiny_albert,
    "deberta": tiny_deberta,
}


@pytest.fixture
def saved(tmp_path):
    """A model, and what to do with its tensors -> the Model of a folder that holds both."""

    def save(model, change=lambda tensors: tensors, tokenizer=None, **settings):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        model.save_pretrained(folder)
        (tokenizer or word_tokenizer("causal")).save_pretrained(folder)
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})
        plain = {"kind": None, "revision": None, "target_modules": None, "dtype": "float32", "attention": "eager"}
        return Model(name="x", source="local", path=str(folder), **plain | settings)

    return save


def error_of(model, **given):
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        model.load(**given)
    return str(caught.value)


def test_a_prefix_on_every_tensor_is_refused_with_counts_and_names(saved):
    for made, count in ((tiny_llama(), 21), (tiny_bert(), 37)):
        wrong = saved(made, lambda tensors: {f"_orig_mod.{name}": value for name, value in tensors.items()})
        message = error_of(wrong)
        assert f"{count} tensors are missing (" in message
        assert "tensors are not of this model (_orig_mod." in message
        assert "save_pretrained" in message


def test_weights_that_are_missing_beyond_or_of_another_shape_are_refused(saved):
    query = "model.layers.1.self_attn.q_proj.weight"
    changes = {
        "1 tensors are missing (lm_head.weight)": lambda t: {k: v for k, v in t.items() if k != "lm_head.weight"},
        "9 tensors are missing (model.layers.1.input_layernorm.weight, ": lambda t: {
            k: v for k, v in t.items() if ".1." not in k
        },
        f"1 tensors are of another shape ({query} (32, 5) for (32, 24))": lambda t: (
            t | {query: t[query][:, :5].clone()}
        ),
        "1 tensors are not of this model (model.layers.2.mlp.up_proj.weight)": lambda t: (
            t | {"model.layers.2.mlp.up_proj.weight": torch.ones(2)}
        ),
        "1 tensors are not of this model (score.weight)": lambda t: t | {"score.weight": torch.ones(2)},
    }
    for message, change in changes.items():
        assert message in error_of(saved(tiny_llama(), change))
    expert = "model.layers.1.block_sparse_moe.experts.2.w1.weight"
    for change in (lambda t: t.pop(expert), lambda t: t.update({expert: t[expert][:, :5].clone()})):
        lacking = saved(tiny_mixtral(), lambda t, change=change: (change(t), t)[1])
        assert "because some are missing or of another shape" in error_of(lacking)
    encoder = saved(tiny_bert().bert, lambda t: t | {"encoder.layer.2.output.dense.bias": torch.ones(2)})
    assert "not of this model (encoder.layer.2.output.dense.bias)" in error_of(encoder, num_labels=2)
    assert "not of this model (lm_head.bias)" in error_of(
        saved(tied_llama(), lambda t: t | {"lm_head.bias": t["model.norm.weight"].clone()})
    )


def test_tied_weights_old_buffers_and_other_heads_of_the_same_model_are_no_error(saved):
    assert saved(tied_llama(), lambda t: t | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}).load()
    assert saved(tiny_t5(), tokenizer=word_tokenizer("seq2seq")).load().drawn == ()
    masked = saved(MASKED["roberta"](), lambda t: t | {"roberta.pooler.dense.bias": torch.ones(24)})
    assert len(masked.load(num_labels=2).drawn) == 4
    three = saved(tiny_bert(3)).load(num_labels=2)
    assert three.drawn == ("classifier.bias", "classifier.weight")
    assert three.model.classifier.weight.shape == (2, 24)
    kept = saved(tiny_bert(2)).load(num_labels=2)
    assert kept.drawn == ()
    assert torch.equal(kept.model.classifier.weight, tiny_bert(2).classifier.weight)


POOLED = {"bert": "bert.pooler", "albert": "albert.pooler"}  # DeBERTa's is beside its encoder, RoBERTa has none


@pytest.mark.parametrize("name", MASKED)
def test_what_the_checkpoint_lacks_is_head_drawn_by_the_seed_and_trained_by_every_method(saved, name):
    source = saved(MASKED[name]())
    one, same, other = (source.load(num_labels=2, seed=seed) for seed in (0, 0, 1))
    head = set(heads(one.model))
    assert (
        head >= {"classifier"} | {POOLED[name]}
        if name in POOLED
        else head == {"classifier", *({"pooler"} if name == "deberta" else ())}
    )
    assert {tensor for path in head for tensor, _ in one.model.named_parameters() if tensor.startswith(path)} == set(
        one.drawn
    )
    state, again, differs = (found.model.state_dict() for found in (one, same, other))
    assert all(torch.equal(state[tensor], again[tensor]) for tensor in state)
    weights_drawn = {tensor for tensor in one.drawn if state[tensor].ndim > 1}
    assert {tensor for tensor in state if not torch.equal(state[tensor], differs[tensor])} == weights_drawn
    counts = set()
    for method in ("hu", "lora_sb", "full_ft"):
        model = source.load(num_labels=2).model
        wrapped, _ = adapter.add(
            model, built(method), RANK, target_layers(model, ("query_proj",) if name == "deberta" else ("query",))
        )
        assert all(p.requires_grad for module in heads(wrapped).values() for p in module.parameters())
        counts.add(adapter.count_parameters(wrapped, trainable=True)[1])
    assert counts == {sum(state[tensor].numel() for tensor in one.drawn)}


def test_a_pooler_of_the_checkpoint_stays_pretrained_and_a_drawn_one_is_no_target(saved):
    pretrained = saved(tiny_bert().bert).load(num_labels=2)
    assert heads(pretrained.model).keys() == {"classifier"}
    assert len(target_layers(pretrained.model, ("dense",))) == 7
    drawn = saved(MASKED["bert"]()).load(num_labels=2)
    assert len(target_layers(drawn.model, ("dense",))) == 6


BATCH = {
    "input_ids": torch.tensor([[1, 7, 9, 2], [1, 11, 2, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
}


def logits(model):
    with torch.no_grad():
        return model.eval()(**BATCH).logits


TARGETS = ("query", "key")


@pytest.fixture(params=["bert lora_ga", "bert lora_xs", "albert hu"])
def trained(request, saved, tmp_path):
    """An encoder without a pooler after some steps: its Model, what runs on, what was saved, and the method."""
    name, method = request.param.split()
    source, method = saved(MASKED[name](), tokenizer=word_tokenizer()), built(method)
    loaded = source.load(num_labels=2, seed=3)
    labelled = BATCH | {"labels": torch.tensor([0, 1])}
    begun = start(loaded.model, method, RANK, TARGETS, [labelled])
    assert begun.facts.num_head == 24 * 24 + 24 + 2 * 24 + 2
    before = [p.detach().clone() for module in heads(begun.model).values() for p in module.parameters()]
    optimizer = torch.optim.AdamW([p for p in begun.model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        begun.model(**labelled).loss.backward()
        optimizer.step()
    after = [p for module in heads(begun.model).values() for p in module.parameters()]
    assert not any(torch.equal(p, old) for p, old in zip(after, before, strict=True))
    weights.save(begun.model, begun.layers, begun.factors, tmp_path / "trained.safetensors")
    return SimpleNamespace(source=source, model=begun.model, path=tmp_path / "trained.safetensors", method=method)


def test_a_drawn_pooler_is_exported_to_stock_peft_and_merged(trained, tmp_path):
    expected = logits(trained.model)
    export.save_adapter(trained.path, trained.source, 2, trained.method.keeps_function, False, tmp_path / "out")
    base = AutoModelForSequenceClassification.from_pretrained(trained.source.path, num_labels=2)  # another pooler
    assert (logits(base) - expected).abs().max() > 0.01
    torch.testing.assert_close(
        logits(PeftModel.from_pretrained(base, tmp_path / "out")), expected, rtol=1e-5, atol=1e-5
    )
    loaded = trained.source.load(num_labels=2, seed=3)
    restored = export.restored(trained.path, loaded, TARGETS, trained.method, RANK, PLAIN)
    torch.testing.assert_close(logits(restored.model), expected, rtol=0, atol=0)
    restored.save_merged(tmp_path / "merged")
    merged = saved_model(tmp_path / "merged").load(num_labels=2, seed=9)
    assert merged.drawn == ()
    torch.testing.assert_close(logits(merged.model), expected, rtol=1e-5, atol=1e-5)


def saved_model(folder):
    return Model("x", None, "local", str(folder), None, None, "float32", "eager")


def test_a_calibration_is_not_shared_between_drawn_poolers(saved):
    task = SimpleNamespace(calibration=[BATCH], calibration_checkpointing=False)
    source = saved(MASKED["bert"]())
    keys = []
    for seed in (0, 0, 1):
        loaded = source.load(num_labels=2, seed=seed)
        with torch.no_grad():
            loaded.model.classifier.weight.zero_()
        layers = target_layers(loaded.model, ("query",))
        request = stage.CalibrationRequest(frozenset({"gradient"}))
        keys.append(key(loaded, layers, task, request, "here"))
    assert keys[0] == keys[1] != keys[2]


DECODER = {**SIZES, **ATTENTION, "num_labels": 3, "initializer_range": 0.3}


@pytest.mark.parametrize("padding", [None, 7])  # of the configuration; the tokenizer's is 0
@pytest.mark.parametrize("architecture", [LlamaForSequenceClassification, LlamaForCausalLM])
def test_a_decoder_as_classifier_answers_alike_alone_and_in_a_batch(saved, padding, architecture):
    made = random(architecture, LlamaConfig(**DECODER, pad_token_id=padding))
    loaded = saved(made, kind="encoder").load(num_labels=3)
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id == PAD
    assert loaded.drawn == (() if architecture is LlamaForSequenceClassification else ("score.weight",))
    rows = [Example(ids, 1) for ids in ([4, 7, 9], [7, 7], [5, 6, 8, 7, 7, 11])]
    given = collate(rows, loaded.tokenizer.pad_token_id)
    with torch.no_grad():
        together = loaded.model(**given)
        alone = [loaded.model(**collate([row], PAD)) for row in rows]
        left = loaded.model(
            torch.tensor([[0, 0, 0, 4, 7, 9], [0, 0, 0, 0, 7, 7]]),
            attention_mask=torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]]),
        )
    torch.testing.assert_close(together.logits, torch.cat([one.logits for one in alone]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.loss, torch.stack([one.loss for one in alone]).mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(left.logits, together.logits[:2], rtol=1e-4, atol=1e-5)


def test_robertas_positions_count_from_its_own_padding_whatever_the_tokenizer_pads_with(saved):
    tokenizer = word_tokenizer("roberta")
    tokenizer.pad_token = "[unused4]"
    loaded = saved(tiny_roberta(), tokenizer=tokenizer).load(num_labels=2)
    assert loaded.model.config.pad_token_id == PAD != loaded.tokenizer.pad_token_id


def test_a_padding_token_beyond_the_embedding_is_refused(saved):
    tokenizer = word_tokenizer("causal")
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    message = error_of(saved(tiny_llama(), tokenizer=tokenizer))
    assert "the pad_token '<pad>' of the tokenizer of" in message
    assert "has id 50, and the model embeds ids below 50; set pad_token to" in message


def test_tokens_beyond_the_embedding_are_refused_unless_no_text_has_them(saved):
    images = word_tokenizer("causal")
    images.add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert saved(tiny_llama(), tokenizer=images).load().tokenizer.convert_tokens_to_ids("<image>") == 50
    words = word_tokenizer("causal")
    words.add_tokens(["fish", "snake"])
    message = error_of(saved(tiny_llama(), tokenizer=words))
    assert "has 2 tokens, from 'fish' of id 50 on, and the model embeds ids below 50; save the model with" in message


def test_a_folder_without_a_tokenizer_with_a_torn_file_or_of_another_kind_is_refused_in_one_line(saved):
    def broken(change):
        model = saved(tiny_llama())
        change(model.place)
        return error_of(model)

    def torn(folder):
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])

    def without(folder):
        for path in folder.glob("tokenizer*"):
            path.unlink()

    assert "has no tokenizer that can be loaded: " in broken(without)
    assert "a file of its weights is torn (" in broken(torn)
    with pytest.raises(
        ValueError, match=r"\Amodel .* cannot be had as model\.kind=causal: .*; set model\.kind to .*\Z"
    ):
        saved(tiny_t5(), kind="causal").skeleton()


def test_attention_that_a_model_does_not_have_is_refused_with_the_one_it_has(saved):
    deberta = saved(MASKED["deberta"](), attention="sdpa", kind="encoder")
    message = error_of(deberta, num_labels=2)
    assert message.startswith("model.attention=sdpa cannot be had for ")
    assert message.endswith("; set model.attention=eager")
    assert "model.attention=flash_attention_2 cannot be had" in error_of(
        saved(tiny_llama(), attention="flash_attention_2")
    )


def refusal(model, targets):
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        target_layers(model, targets)
    return str(caught.value)


def test_every_name_among_the_targets_must_match_a_linear_layer():
    assert refusal(tiny_llama(), ("q_proj", "xyz")).startswith("model.target_modules=['xyz'] matches no linear layer; ")
    assert "(model.embed_tokens" not in refusal(tiny_llama(), ("embed_tokens",))
    moe = refusal(tiny_mixtral(), ("q_proj", "gate_up_proj"))
    assert (
        "['gate_up_proj'] matches no linear layer (model.layers.0.mlp.experts.gate_up_proj is of a MixtralExperts)"
        in moe
    )
    assert "['c_attn'] matches no linear layer (transformer.h.0.attn.c_attn.weight is of a Conv1D)" in refusal(
        tiny_gpt2(), ("c_attn",)
    )
    assert refusal(tiny_gpt2(), None) == (
        "GPT2LMHeadModel has no linear layer that can be adapted: transformer.h.0.attn.c_attn.weight is of a Conv1D; "
        "choose a model whose projections are nn.Linear"
    )


def test_tied_output_embeddings_are_refused_as_a_target_and_untied_ones_are_not():
    message = refusal(tied_llama(), ("q_proj", "lm_head"))
    assert message.startswith("lm_head shares its weight with model.embed_tokens.weight (tied embeddings)")
    assert message.endswith("leave lm_head out of model.target_modules")
    with torch.device("meta"):
        skeleton = LlamaForCausalLM(tied_llama().config)
    assert refusal(skeleton, ("lm_head",)) == message
    assert "lm_head" in target_layers(tiny_llama(), ("lm_head",))


def checked(made, targets):
    with torch.device("meta"):
        skeleton = type(made)(made.config)
    adapter.check_layers(skeleton, target_layers(skeleton, targets))


def test_layers_that_peft_would_leave_alone_are_refused_in_one_line():
    model, state = tiny_qwen3_moe(), torch.get_rng_state()
    with pytest.raises(ValueError, match=r"PEFT takes the names of 3 .*\(model.layers.0.mlp.gate_proj, ") as all_of_it:
        checked(model, None)
    named = str(all_of_it.value).partition("model.target_modules=[")[2].rstrip("]").split(",")
    assert named == ["k_proj", "o_proj", "q_proj", "v_proj"]
    checked(model, tuple(named))
    partly = r"PEFT does not adapt all of these layers: Cannot convert .* Name the others in model.target_modules"
    with pytest.raises(ValueError, match=partly):
        checked(model, ("up_proj",))
    with pytest.raises(ValueError, match=r"PEFT does not adapt all of these layers: .*out_proj"):
        checked(tiny_mamba(), None)
    assert torch.equal(torch.get_rng_state(), state)


def test_experts_that_adapters_leave_out_are_warned_of_with_their_share_and_recorded():
    batch = {"input_ids": torch.tensor([[4, 7, 9, 2]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    experts = sum(p.numel() for name, p in tiny_mixtral().named_parameters() if ".mlp." in name)
    whole = sum(p.numel() for p in tiny_mixtral().parameters())
    assert 2 * 4 * 3 * 24 * 40 < experts < whole
    told = rf"LoRA leaves out {round(100 * experts / whole)} % of the parameters.* is of a MixtralExperts"
    with pytest.warns(UserWarning, match=told):
        begun = start(tiny_mixtral(), built("hu"), RANK, None, [batch | {"labels": batch["input_ids"]}])
    assert begun.facts.num_left_out == experts
    assert len(begun.layers) == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert start(tiny_mixtral(), built("full_ft"), RANK, None, []).facts.num_left_out == 0
        assert start(tiny_llama(), built("hu"), RANK, None, []).facts.num_left_out == 0
    assert left_out(tiny_bert()) == (0, "")


def test_weights_that_are_not_finite_are_blamed_on_the_checkpoint_and_not_on_the_method():
    model, batch = tiny_llama(), random_batch(2, 6)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"the pretrained model's largest logit is nan .* weights"):
        start(model, built("hu"), RANK, None, [batch])


def test_a_run_is_refused_before_its_data_is_read_and_before_anything_trains(saved, run_cell, monkeypatch):
    monkeypatch.setattr(Task, "read", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(Model, "load", lambda *_: pytest.fail("loaded"))
    for model, targets, r, message in (
        (tied_llama(), "[q_proj,lm_head]", 4, "lm_head shares its weight"),
        (tiny_gpt2(), "null", 4, "no linear layer that can be adapted"),
        (tiny_llama(), "[q_proj,xyz]", 4, "['xyz'] matches no linear layer"),
        (tiny_qwen3_moe(), "null", 4, "PEFT takes the names of 3 linear layers"),
        (tiny_llama(), "[k_proj]", 17, "rank.r=17 is larger than the smaller side 16"),
    ):
        given = ["model=local", f"model.path={saved(model).path}", f"model.target_modules={targets}", f"rank.r={r}"]
        record, _ = run_cell(*given)
        assert record.status == "failed"
        assert message in record.error.message


def test_a_run_records_what_was_drawn(saved, run_cell):
    source = saved(MASKED["bert"](), tokenizer=word_tokenizer())
    task = ["task=glue_tiny", "task.train=[acceptability_tiny]", "task.score=[acceptability_tiny]"]
    record, _ = run_cell("model=local", f"model.path={source.path}", *task, "model.kind=encoder")
    assert record.model.drawn == [
        "bert.pooler.dense.bias", "bert.pooler.dense.weight", "classifier.bias", "classifier.weight"
    ]  # fmt: skip
    assert record.initialization.num_head == 24 * 24 + 24 + 2 * 24 + 2
    assert record.scoring.merged["num_differing"] == 0


@pytest.mark.parametrize(
    ("capability", "precision", "warned"), [("AVX2", "bf16", 1), ("AVX2", "fp32", 0), ("AVX512", "bf16", 0)]
)
def test_bfloat16_on_a_cpu_that_computes_it_by_emulation_is_warned_about(
    monkeypatch, recwarn, capability, precision, warned
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    check_precision("train.precision", precision)
    assert [str(one.message).partition(" ")[0] for one in recwarn] == ["train.precision=bf16"] * warned
