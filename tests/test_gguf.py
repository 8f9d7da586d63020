"""GGUF files: each weight, the tokenizer, what the metadata say, the copy in the cache, and what is refused."""

import json
import shutil
import sys

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Type

import gguf_files
from bench.model.gguf import unpack
from bench.model.load import Model
from bench.process.hashes import fresh_sha256
from bench.process.store import Cache, clear, entries
from gguf_files import SPECIAL, TOKENS, sentencepiece, tiny, write
from models import random_batch

UNTIED = {"tie_word_embeddings": False}


def model_of(path, kind=None, dtype="float32", **settings):
    return Model("x", kind, "local", str(path), None, None, dtype, "eager", **settings)


@pytest.fixture
def cache(tmp_path):
    return Cache(enabled=True, dir=tmp_path / "cache", max_gb=1.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tiny.gguf"


def error_of(path, **settings):
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        model_of(path, **settings).load()
    return str(caught.value)


def logits(model):
    with torch.no_grad():
        return model.eval()(**random_batch(2, 12)).logits


ORIGINAL = {"original_max_position_embeddings": 16}
GEMMA3_ROPE = {
    "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
    "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
}


def tokenizer_of(architecture):
    return sentencepiece() if architecture.startswith("gemma") else {}


HEADS = [(name, tied) for tied in (True, False) for name in gguf_files.CLASSES if tied or name != "gemma2"]


@pytest.mark.parametrize(("architecture", "tied"), HEADS)  # the format has no head of a Gemma 2
def test_the_loaded_model_is_the_one_that_was_written(path, architecture, tied):
    model = tiny(architecture, tie_word_embeddings=tied)
    model.set_attn_implementation("eager")
    loaded = model_of(write(path, model, architecture, **tokenizer_of(architecture))).load().model
    written, found = model.state_dict(), loaded.state_dict()
    assert written.keys() == found.keys()
    for name, tensor in written.items():
        exact = {"rtol": 0, "atol": 0} if not architecture.startswith("gemma") else {"rtol": 0, "atol": 1e-6}
        torch.testing.assert_close(found[name], tensor, **exact)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1])
def test_a_quantised_tensor_is_unpacked_as_the_formats_own_library_does(path, kind):
    model = tiny(**UNTIED)
    loaded = model_of(write(path, model, kind=kind)).load()
    for name, tensor in model.state_dict().items():
        blocks = gguf.quantize(tensor.numpy(), kind if tensor.dim() > 1 else Type.F32)
        expected = gguf.dequantize(blocks, kind if tensor.dim() > 1 else Type.F32)
        assert torch.equal(loaded.model.state_dict()[name], torch.tensor(expected)), name
    assert loaded.gguf.tensor_types == {kind.name: 16, "F32": 5}


@pytest.mark.parametrize(
    ("architecture", "settings", "metadata"),
    [
        (
            "llama",
            {"rope_parameters": {"rope_theta": 1e3, "rope_type": "linear", "factor": 4.0}},
            {"type": "linear", "factor": 4.0},
        ),
        (
            "qwen2",
            {"rope_parameters": {"rope_theta": 1e3, "rope_type": "yarn", "factor": 4.0} | ORIGINAL},
            {"type": "yarn", "factor": 4.0, "original_context_length": 16},
        ),
        ("gemma2", {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0}, {}),
        ("gemma3", {"sliding_window": 4}, {}),
        ("gemma3", {"rope_parameters": GEMMA3_ROPE}, {"type": "linear", "factor": 8.0}),
        ("qwen3", {"head_dim": 32}, {}),
    ],
)
def test_what_the_metadata_say_of_the_computation_is_computed(path, architecture, settings, metadata):
    model = tiny(architecture, **settings)
    model.set_attn_implementation("eager")
    stated = {f"ARCH.rope.scaling.{key}": value for key, value in metadata.items()}
    stated |= {f"ARCH.{key}": value for key, value in settings.items() if key.endswith("softcapping")}
    stated |= {f"ARCH.attention.{key}": value for key, value in settings.items() if key == "sliding_window"}
    loaded = model_of(write(path, model, architecture, **stated, **tokenizer_of(architecture))).load().model
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-4, atol=1e-4)
    if "rope_parameters" not in settings and "head_dim" not in settings:
        assert not torch.allclose(logits(tiny(architecture)), logits(model), atol=1e-2)


def llama3_factors(**changed):
    """Llama 3.1's factors as convert_hf_to_gguf.py computes them, for heads of 16."""
    given = {"factor": 8.0, "low": 1.0, "high": 4.0, "original": 8192} | changed
    factors = []
    for frequency in 500000.0 ** -(torch.arange(0, 16, 2) / 16):
        wavelength = 2 * torch.pi / frequency
        smooth = (given["original"] / wavelength - given["low"]) / (given["high"] - given["low"])
        factors.append(1 / ((1 - smooth.clamp(0, 1)) / given["factor"] + smooth.clamp(0, 1)))
    return {"rope_freqs.weight": torch.stack(factors)}


def test_the_factors_of_llama_3_become_the_parameters_that_give_them_or_are_refused(path):
    own = {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
    own |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    model = tiny(rope_parameters=own)
    loaded = model_of(write(path, model, tensors=llama3_factors())).load().model
    torch.testing.assert_close(loaded.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq, rtol=1e-5, atol=0)
    write(path, model, tensors=llama3_factors(original=4096))
    assert "scales its rotary embedding (rope.scaling.type=none, rope_freqs.weight)" in error_of(path)
    write(path, model, **{"ARCH.rope.scaling.type": "longrope", "ARCH.rope.scaling.factor": 2.0})
    assert "(rope.scaling.type=longrope)" in error_of(path)


def test_the_tokenizer_is_the_one_that_the_file_describes(path):
    tokenizer = model_of(write(path, tiny(), **{"tokenizer.ggml.add_bos_token": True})).load().tokenizer
    assert tokenizer.convert_ids_to_tokens(range(len(TOKENS))) == TOKENS
    assert [getattr(tokenizer, f"{name}_token") for name in SPECIAL] == list(SPECIAL.values())
    assert tokenizer.convert_ids_to_tokens(tokenizer("x a").input_ids) == ["<s>", "x", "Ġa"]
    assert tokenizer.apply_chat_template([{"content": "x"}], tokenize=False) == "<s>x</s>"
    assert tokenizer("é</s>").input_ids[-1] == tokenizer.eos_token_id
    plain = model_of(write(path, tiny())).load().tokenizer
    assert plain.convert_ids_to_tokens(plain("x a").input_ids) == ["x", "Ġa"]


def test_a_text_is_split_as_the_file_says(path):
    split = {}
    for stated in ("gpt-2", "smollm"):
        write(path, tiny(), **{"tokenizer.ggml.pre": stated})
        tokenizer = model_of(path).load().tokenizer
        split[stated] = tokenizer.convert_ids_to_tokens(tokenizer("a  12").input_ids)
    assert split == {"gpt-2": ["a", "Ġ", "Ġ", "12"], "smollm": ["a", "ĠĠ", "1", "2"]}
    write(path, tiny(), **{"tokenizer.ggml.pre": "llama-bpe"})
    tokenizer = model_of(path).load().tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer("cat cats").input_ids) == ["<s>", "cat", "Ġ", *"cats"]
    write(path, tiny(), **{"tokenizer.ggml.pre": "new"})
    assert "does not know how its tokenizer splits texts (tokenizer.ggml.pre=new)" in error_of(path)


def test_a_sentencepiece_text_opens_as_the_file_says(path):
    opened = {}
    for said in (True, False, None):
        more = {} if said is None else {"add_space_prefix": said, "add_bos_token": said}
        tokenizer = model_of(write(path, tiny(), **sentencepiece(**more))).load().tokenizer
        opened[said] = tokenizer.convert_ids_to_tokens(tokenizer("a b").input_ids)
        assert tokenizer.decode(tokenizer("a b").input_ids, skip_special_tokens=True) == "a b"
    assert opened == {True: ["<s>", "▁a", "▁b"], False: ["a", "▁b"], None: ["<s>", "▁a", "▁b"]}


def test_a_tokenizer_that_is_not_the_files_is_refused(path):
    twice = [TOKENS[0] if number == 200 else token for number, token in enumerate(TOKENS)]
    assert "tokens differ, such as id 0, " in error_of(write(path, tiny(), tokens=twice))
    assert "holds no tokenizer (no tokenizer.ggml.tokens)" in error_of(write(path, tiny(), tokens=None))
    write(path, tiny(), **{"tokenizer.ggml.model": "rwkv"})
    assert "its tokenizer (rwkv) cannot be built by transformers" in error_of(path)


def test_embeddings_beyond_the_tokens_are_kept(path):
    model = tiny(vocab_size=len(TOKENS) + 5)
    found = model_of(write(path, model)).load().model
    assert torch.equal(found.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_weights_without_a_place_in_the_model_are_refused_as_are_those_that_lack(path):
    write(path, tiny(), tensors={"blk.0.attn_q.bias": torch.ones(64)})
    assert "weights, of which transformers' LlamaForCausalLM has a place for" in error_of(path)
    write(path, tiny(), tensors={"blk.1.ffn_up.weight": None})
    assert "1 tensors are missing or of another shape than its metadata say (model.layers.1.mlp" in error_of(path)
    write(path, tiny(), tensors={"blk.1.ffn_up.weight": torch.ones(64, 32)})
    assert "1 tensors are missing or of another shape than its metadata say (model.layers.1.mlp" in error_of(path)


def test_what_is_no_whole_gguf_file_is_refused_in_a_line_with_the_remedy(path, tmp_path, monkeypatch):
    write(path, tiny())
    content = path.read_bytes()
    for kept in (10, 2000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        assert f"tiny.gguf is cut short or damaged ({kept:,} bytes; " in error_of(path)
        assert "copy or download it again" in error_of(path)
    path.write_bytes(b"PK" + content[2:])
    assert "is no GGUF file (it does not begin with GGUF)" in error_of(path)
    for kind in (None, "causal"):
        with pytest.raises(ValueError, match=r"there is no file .*nothing\.gguf; give a GGUF file"):
            model_of(tmp_path / "nothing.gguf", kind).identity()
    path.write_bytes(content.replace(b"llama", b"lhama"))
    assert "its architecture, lhama, cannot be read by transformers 5" in error_of(path)
    write(path, tiny(), **{"split.count": 2})
    assert "is one of 2 parts of a model" in error_of(path)
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "the package gguf, which reads it, is not installed; pip install gguf" in error_of(path)


def test_a_folder_holds_one_gguf_file_or_says_which(path, tmp_path):
    write(path, tiny())
    assert model_of(tmp_path).place == path
    shutil.copy(path, tmp_path / "other.gguf")
    with pytest.raises(ValueError, match=r"holds 2 GGUF files \(other\.gguf, tiny\.gguf\); give one"):
        _ = model_of(tmp_path).place
    with pytest.raises(ValueError, match=r"no config\.json and no GGUF file"):
        _ = model_of(tmp_path / "cache").place


def test_a_model_is_what_its_file_holds_wherever_it_lies_and_is_unpacked_once(path, tmp_path, cache, monkeypatch):
    first = model_of(write(path, tiny(), kind=Type.Q8_0))
    moved = tmp_path / "elsewhere" / "renamed.gguf"
    moved.parent.mkdir()
    shutil.copy(path, moved)
    second = model_of(moved.parent)
    assert first.identity() == second.identity()
    assert first.identity()["content"] == fresh_sha256(path)
    loaded = first.load(cache=cache)
    assert loaded.revision == loaded.gguf.sha256 == fresh_sha256(path)
    assert (loaded.gguf.file, loaded.gguf.quantization) == ("tiny.gguf", "F32")  # as general.file_type says
    monkeypatch.setattr(unpack, "_unpack", None)
    monkeypatch.setattr(unpack, "stated_by", None)
    again = first.load(cache=cache)
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), again.model.parameters(), strict=True))
    assert first.skeleton(cache=cache).num_parameters() == loaded.model.num_parameters()
    (listed,) = entries(cache.folder)
    assert listed.title == "tiny.gguf, unpacked"
    assert listed.num_bytes > 4 * loaded.model.num_parameters()


def test_a_copy_that_was_spoilt_is_made_again(path, cache):
    model = model_of(write(path, tiny()))
    wanted = logits(model.load(cache=cache).model)
    (weights,) = cache.folder.rglob("model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 64
    weights.write_bytes(content)
    with pytest.warns(UserWarning, match="is corrupt; it is computed again"):
        assert torch.equal(logits(model.load(cache=cache).model), wanted)
    assert torch.equal(logits(model.load(cache=cache).model), wanted)


def test_a_copy_that_was_not_finished_is_none(path, cache, monkeypatch):
    model = model_of(write(path, tiny()))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.process.store._fill", killed)
    with pytest.raises(KeyboardInterrupt):
        model.load(cache=cache)
    assert entries(cache.folder) == []
    monkeypatch.undo()
    assert model.load(cache=cache).gguf
    assert clear(cache.folder) == 1
    assert list(cache.folder.iterdir()) == []


def test_a_copy_that_cannot_be_kept_is_made_for_this_load(path, tmp_path):
    model = model_of(write(path, tiny()))
    with pytest.warns(UserWarning, match=r"tiny\.gguf, unpacked takes 0\.0 GB, more than cache\.max_gb"):
        small = model.load(cache=Cache(enabled=True, dir=tmp_path / "small", max_gb=1e-6))
    off = model.load(cache=Cache(enabled=False, dir=tmp_path / "off", max_gb=1.0))
    assert torch.equal(logits(small.model), logits(off.model))
    assert not (tmp_path / "off").exists()


def test_bfloat16_is_the_same_as_of_a_folder_and_has_a_copy_of_its_own(path, cache):
    write(path, tiny(), kind=Type.Q8_0)
    full = model_of(path).load(cache=cache).model
    half = model_of(path, dtype="bfloat16").load(cache=cache).model
    for one, other in zip(full.parameters(), half.parameters(), strict=True):
        assert torch.equal(one.bfloat16(), other)
    assert len(entries(cache.folder)) == 2


def test_a_file_becomes_a_classifier_whose_head_is_drawn(path):
    loaded = model_of(write(path, tiny(**UNTIED)), kind="encoder").load(num_labels=3)
    assert (loaded.kind, loaded.drawn) == ("encoder", ("score.weight",))
    assert loaded.model.score.weight.shape == (3, 32)


def test_a_cell_of_a_gguf_file_is_recorded_exported_and_rerun(path, tmp_path, run_cell):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from bench import export, verify

    stated = {"general.file_type": int(gguf.LlamaFileType.MOSTLY_Q8_0)}
    write(path, tiny(max_position_embeddings=512), kind=Type.Q8_0, **stated)
    settings = ["task.max_length=400", "model=local", f"model.path={path}", "train.learning_rate=1e-3"]
    record, cell = run_cell("method=lora_ga", *settings)
    folder = cell.path
    assert record.status == "completed", record.error
    facts = record.model.gguf
    assert (facts.file, facts.quantization) == ("tiny.gguf", "Q8_0")
    assert facts.sha256 == record.model.revision == record.identity["model"]["content"] == fresh_sha256(path)
    assert export.main([str(folder), "--to", str(tmp_path / "adapter")]) == 0
    assert export.main([str(folder), "--to", str(tmp_path / "merged"), "--merged"]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    adapted = PeftModel.from_pretrained(model_of(path).load().model, tmp_path / "adapter")
    torch.testing.assert_close(logits(adapted), logits(merged), rtol=1e-3, atol=1e-3)
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == str(path)
    assert verify.main([str(folder), "--rerun"]) == 0
