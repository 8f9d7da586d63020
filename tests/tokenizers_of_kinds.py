"""Tokenizers of all kinds, trained on one sentence, under each template of special tokens."""

import functools

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from models import word_tokenizer

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]  # ids 0 to 3, as those of the models' builders
BOS, EOS = 1, 2
TEXT = ["the cat sees many big dogs and eats a fish\nwhy not, the old man said, many a bird is small 0 1 2"]
TEMPLATES = {"none": "$A", "bos": "<s> $A", "eos": "$A </s>", "both": "<s> $A </s>"}
VOCABULARY = 320


def byte_level():
    """As GPT-2's and Llama 3's: a space belongs to the word after it."""
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pieces.train_from_iterator(TEXT, _trainer(trainers.BpeTrainer, initial_alphabet=alphabet))
    return pieces


def unigram():
    """As SentencePiece's in T5 and XGLM: a space before every text."""
    pieces = Tokenizer(models.Unigram())
    pieces.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    pieces.decoder = decoders.Metaspace(prepend_scheme="always")
    pieces.train_from_iterator(TEXT, _trainer(trainers.UnigramTrainer, unk_token="<unk>"))
    return pieces


def legacy():
    """As Llama 2's fast tokenizer: a space before every text, by a normaliser, and words that may join over spaces."""
    pieces = Tokenizer(models.BPE(unk_token="<unk>"))
    pieces.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    pieces.decoder = decoders.Sequence(steps)
    pieces.train_from_iterator(TEXT, _trainer(trainers.BpeTrainer))
    return pieces


def word_piece():
    """As BERT's: spaces are dropped."""
    pieces = word_tokenizer().backend_tokenizer
    pieces.add_special_tokens(SPECIAL)
    return pieces


KINDS = {made.__name__: made for made in (byte_level, unigram, legacy, word_piece)}


def tokenizer(kind, template, **settings):
    """A tokenizer whose template puts BOS before a text, EOS behind it, both or none."""
    pieces = Tokenizer.from_str(_trained(kind))
    form = TEMPLATES[template]
    ids = [(token, pieces.token_to_id(token)) for token in ("<s>", "</s>")]
    pieces.post_processor = processors.TemplateProcessing(
        single=form, pair=form.replace("$A", "$A $B"), special_tokens=ids
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    special |= {"bos_token": "<s>"} if template in ("bos", "both") else {}
    return PreTrainedTokenizerFast(tokenizer_object=pieces, **special | {"padding_side": "left"} | settings)


@functools.cache
def _trained(kind):
    return KINDS[kind]().to_str()


def _trainer(trainer, **settings):
    return trainer(vocab_size=VOCABULARY - 4, special_tokens=SPECIAL, show_progress=False, **settings)
