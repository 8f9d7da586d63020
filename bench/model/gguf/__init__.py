"""GGUF files, llama.cpp's format of quantised models: read once, then used as a folder that save_pretrained writes.

transformers unpacks the weights (`GgufConfig(dequantize=True)`), which takes longer than all else of a short run; so
the unpacked model is kept in the cache, by the file's content. Of the metadata transformers leaves some unread: what
they say is put into the configuration and the tokenizer here, or the file is refused.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from bench.model.gguf.file import SUFFIX, found_in
from bench.model.gguf.stated import Facts
from bench.model.gguf.unpack import OFF, config, kind_of, unpacked

__all__ = ["OFF", "SUFFIX", "Facts", "config", "found_in", "kind_of", "unpacked"]
