"""Files of llama.cpp (.gguf) in and out: the Llama, Qwen2 and Qwen3 families.

`read` makes a Hugging Face folder of a file, `write` a file of a network; `layout` is what both know of the format.
"""

from thinkery.model.gguf.read import convert, read_shape, read_tokenizer
from thinkery.model.gguf.write import TYPES, check_exportable, export

__all__ = ["TYPES", "check_exportable", "convert", "export", "read_shape", "read_tokenizer"]
