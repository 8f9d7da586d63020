"""Models, a tokenizer and data for tests, small enough to be made anew in each."""

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LongformerConfig,
    LongformerForSequenceClassification,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from bench.model.load import UNKNOWN, LoadedModel
from bench.score import Scoring

# The tokenizer below and all builders but tiny_llama, which has no special tokens, agree on these.
PAD, CLS, SEP, UNK = 0, 1, 2, 3
PLAIN_WORDS = "the a cat dog bird tree man girl sees likes finds eats big small old red not and is was".split()
WORDS = [
    *PLAIN_WORDS,
    *"yes no True False one two three ? . : , sentence question answer Answer Question ##s ##ed".split(),
]


def tiny_llama(**settings):
    """A random Llama of two layers with grouped-query attention; no projection is square; always the same."""
    attention = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
    sizes = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    return _random(LlamaForCausalLM, LlamaConfig(**sizes | attention | {"initializer_range": 0.3} | settings))


def tiny_bert(num_labels=2, **settings):
    """A random BERT with a classification head, two layers, dropout 0.1; always the same.

    Attention projections are square in BERT: its feed-forward layers are those that are not. num_labels 1: regression.
    """
    config = BertConfig(**_encoder(num_labels) | {"max_position_embeddings": 64, "pad_token_id": PAD} | settings)
    return _random(BertForSequenceClassification, config)


def tiny_roberta(num_labels=2, **settings):
    """As `tiny_bert`; of its 65 positions 64 can be used, because they count from the padding token's id plus one."""
    own = {"max_position_embeddings": 65, "pad_token_id": PAD, "type_vocab_size": 1}
    return _random(RobertaForSequenceClassification, RobertaConfig(**_encoder(num_labels) | own | settings))


def tiny_t5(**settings):
    """A random T5 of two layers in encoder and decoder, relative positions, dropout 0.1; no layer is square."""
    sizes = {"vocab_size": 50, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4}
    special = {"pad_token_id": PAD, "eos_token_id": SEP, "decoder_start_token_id": PAD}
    own = {"dropout_rate": 0.1, "initializer_factor": 1.0}
    return _random(T5ForConditionalGeneration, T5Config(**sizes | special | own | settings))


def tiny_bart(**settings):
    """A random BART of two layers in encoder and decoder, 64 positions, dropout 0.1."""
    sizes = {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 40}
    sizes |= {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 40}
    sizes |= {"vocab_size": 50, "d_model": 24, "max_position_embeddings": 64}
    special = {"pad_token_id": PAD, "bos_token_id": CLS, "eos_token_id": SEP, "decoder_start_token_id": SEP}
    own = {"dropout": 0.1, "init_std": 0.3, "forced_eos_token_id": None}
    return _random(BartForConditionalGeneration, BartConfig(**sizes | special | own | settings))


def tiny_albert(num_labels=2):
    """A random ALBERT whose one layer is called three times, and whose embeddings are narrower than the model."""
    own = {"embedding_size": 16, "num_hidden_layers": 3, "num_hidden_groups": 1, "inner_group_num": 1}
    own |= {"max_position_embeddings": 64, "pad_token_id": PAD, "classifier_dropout_prob": 0.0}
    return _random(AlbertForSequenceClassification, AlbertConfig(**_encoder(num_labels) | own))


def tiny_deberta(num_labels=2, share_att_key=True):
    """A random DeBERTa-v2 with relative positions, which its layers or layers of their own project."""
    own = {"relative_attention": True, "pos_att_type": "c2p|p2c", "share_att_key": share_att_key}
    own |= {"max_position_embeddings": 64, "position_buckets": 5, "norm_rel_ebd": "layer_norm", "pad_token_id": PAD}
    own |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = _random(DebertaV2ForSequenceClassification, DebertaV2Config(**_encoder(num_labels) | own))
    model.set_attn_implementation("eager")
    return model


def tiny_longformer(num_labels=2):
    """A random Longformer: attention sees (tokens, batch), padded to its window, and divides queries in place."""
    own = {"attention_window": [4, 4], "max_position_embeddings": 80, "pad_token_id": PAD}
    own |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return _random(LongformerForSequenceClassification, LongformerConfig(**_encoder(num_labels) | own))


def tiny_opt():
    """A random OPT of two layers, whose feed-forward layers see (batch * tokens, features)."""
    sizes = {"vocab_size": 50, "hidden_size": 24, "ffn_dim": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"pad_token_id": PAD, "bos_token_id": CLS, "eos_token_id": SEP}
    own = {"max_position_embeddings": 64, "word_embed_proj_dim": 16, "dropout": 0.0, "init_std": 0.3}
    return _random(OPTForCausalLM, OPTConfig(**sizes | special | own))


def tiny_switch():
    """A random Switch Transformer: each token of every second layer goes to one of six experts."""
    sizes = {"vocab_size": 50, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4}
    sizes |= {
        "num_decoder_layers": 2,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
        "num_experts": 6,
        "expert_capacity": 5,
    }
    special = {"pad_token_id": PAD, "eos_token_id": SEP, "decoder_start_token_id": PAD}
    own = {"dropout_rate": 0.0, "initializer_factor": 1.0, "router_jitter_noise": 0.0}
    return _random(SwitchTransformersForConditionalGeneration, SwitchTransformersConfig(**sizes | special | own))


def word_tokenizer(kind="encoder", model_max_length=64):
    """A WordPiece tokenizer of 50 tokens whose ids are those of the builders above.

    Args:
        kind: encoder: [CLS] a [SEP] b [SEP] with token types; roberta: [CLS] a [SEP] [SEP] b [SEP] without; seq2seq:
            a [SEP]; causal: nothing added, padded on the left. [SEP] is the end of sequence.
        model_max_length: what the tokenizer says that its model can take.
    """
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    vocabulary = special + WORDS
    vocabulary += [f"[unused{i}]" for i in range(50 - len(vocabulary))]
    pieces = Tokenizer(WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    pieces.normalizer = normalizers.Strip()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    forms = {
        "encoder": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
        "roberta": ("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]"),
        "seq2seq": ("$A [SEP]", "$A $B [SEP]"),
        "causal": ("$A", "$A $B"),
    }
    single, pair = forms[kind]
    pieces.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if kind == "encoder" else [])
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="[SEP]",
        padding_side="left" if kind == "causal" else "right",
        model_max_length=model_max_length,
        model_input_names=names,
    )


def whole(model, kind="causal", tokenizer=None):
    """The model as `Model.load` returns one."""
    return LoadedModel(model, tokenizer or word_tokenizer(kind), UNKNOWN, kind)


def scoring(**changed):
    """Settings of scoring: the first eight items of test, four of them also merged."""
    plain = {"split": "test", "limit": 8, "batch_size": 8, "backend": "hf", "merged_samples": 4}
    return Scoring(**plain | {"confirm_run_unsafe_code": False} | changed)


def gradients_by_autograd(model, layers, batch):
    model.zero_grad()
    model.eval()
    model(**batch).loss.backward()
    grads = {name: layer.weight.grad for name, layer in layers.items()}  # None of an expert that no token is sent to
    return {name: torch.zeros_like(layers[name].weight) if g is None else g.clone() for name, g in grads.items()}


def calls_of(model, layers, batch):
    """What each layer is given at each of its calls."""
    inputs = {name: [] for name in layers}
    hooks = [
        layer.register_forward_hook(lambda _m, args, _o, name=name: inputs[name].append(args[0].detach()))
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        model.eval()(**batch)
    for hook in hooks:
        hook.remove()
    return inputs


def inputs_of(model, layers, batch):
    """What each layer is given at its one call."""
    return {name: inputs for name, (inputs,) in calls_of(model, layers, batch).items()}


def random_batch(rows, tokens, seed=0, vocabulary=50):
    """A batch of random tokens, the first two of each row a prompt that the loss leaves out."""
    ids = torch.randint(0, vocabulary, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[:, :2] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def _encoder(num_labels):
    sizes = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 40}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3}
    problem = "regression" if num_labels == 1 else "single_label_classification"
    return sizes | {"num_labels": num_labels, "problem_type": problem}


def _random(architecture, config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return architecture(config)
