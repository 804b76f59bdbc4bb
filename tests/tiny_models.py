"""GGUF files with random weights for tests and benchmarks. Equal arguments give equal bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, PoolingType, TokenType

HEAD_DIM = 32
N_HEAD = 4
N_HEAD_KV = 2
N_CTX_TRAIN = 32_768
SLIDING_WINDOW = 32

# Control tokens of a chat. The rest of the vocabulary: 256 bytes, merges, and words that no text is tokenized to.
CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
)
MERGES = ("h e", "l l", "i n", "e r", "Ġ t", "Ġt he", "Ġ a", "o u", "Ġ w", "he ll", "hell o")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NORMS = ("attn_output", "layer_output")
SENTENCES = ("▁", "▁the", "he", "ll", "hell", "hello", "▁hello", *"abcdefghijklmnopqrstuvwxyz")


class _Model:
    """A writer of a GGUF file: metadata with `gguf`, weights with matrix() and ones()."""

    def __init__(
        self, path: Path | str, arch: str, n_embd: int, n_layer: int, n_ff: int, seed: int, q8_0: bool
    ) -> None:
        self.gguf = GGUFWriter(path, arch)
        self.n_embd = n_embd
        self.n_ff = n_ff
        self._rng = np.random.default_rng(seed)
        self._q8_0 = q8_0
        self.gguf.add_name(f"random-{arch}")
        self.gguf.add_block_count(n_layer)
        self.gguf.add_context_length(N_CTX_TRAIN)
        self.gguf.add_embedding_length(n_embd)
        self.gguf.add_feed_forward_length(n_ff)
        self.gguf.add_layer_norm_rms_eps(1e-6)

    def matrix(self, name: str, *shape: int, std: float | None = None) -> None:
        """Normal noise of shape (..., rows, columns). By default, a product with it keeps the size of a vector."""
        std = std or shape[-1] ** -0.5
        if self._q8_0:
            # 32 weights a block: a float16 scale, then 32 int8, here uniform noise written without quantizing floats.
            blocks = np.empty((*shape[:-1], shape[-1] // 32), dtype=[("scale", np.float16), ("weights", np.int8, 32)])
            blocks["scale"] = std * 3**0.5 / 127
            blocks["weights"] = self._rng.integers(-127, 128, blocks["weights"].shape, dtype=np.int8)
            self.gguf.add_tensor(name, blocks.view(np.uint8), raw_dtype=GGMLQuantizationType.Q8_0)
        else:
            noise = self._rng.standard_normal(shape, dtype=np.float32) * std
            self.gguf.add_tensor(name, noise)

    def vector(self, name: str, low: float, high: float, *shape: int) -> None:
        """Uniform float32 noise in [low, high]."""
        self.gguf.add_tensor(name, self._rng.uniform(low, high, shape).astype(np.float32))

    def ones(self, name: str, size: int) -> None:
        self.gguf.add_tensor(name, np.ones(size, dtype=np.float32))

    def attention(self, block: str, n_head: int, n_head_kv: int, head_dim: int, *, gated: bool = False) -> None:
        """Write the four projections and the two head norms. gated: double the queries (Qwen3.5)."""
        self.matrix(f"{block}.attn_q.weight", n_head * head_dim * (2 if gated else 1), self.n_embd)
        self.matrix(f"{block}.attn_k.weight", n_head_kv * head_dim, self.n_embd)
        self.matrix(f"{block}.attn_v.weight", n_head_kv * head_dim, self.n_embd)
        self.matrix(f"{block}.attn_output.weight", self.n_embd, n_head * head_dim)
        self.ones(f"{block}.attn_q_norm.weight", head_dim)
        self.ones(f"{block}.attn_k_norm.weight", head_dim)

    def feed_forward(self, block: str) -> None:
        self.matrix(f"{block}.ffn_gate.weight", self.n_ff, self.n_embd)
        self.matrix(f"{block}.ffn_up.weight", self.n_ff, self.n_embd)
        self.matrix(f"{block}.ffn_down.weight", self.n_embd, self.n_ff)

    def heads(self, n_head: int, n_head_kv: int, head_dim: int) -> None:
        self.gguf.add_head_count(n_head)
        self.gguf.add_head_count_kv(n_head_kv)
        self.gguf.add_key_length(head_dim)
        self.gguf.add_value_length(head_dim)
        self.gguf.add_rope_freq_base(1e6)

    def embeddings(self, n_vocab: int, *, tied: bool) -> None:
        """Write token embedding and output. With tied weights, a random model would repeat its last token."""
        self.matrix("token_embd.weight", n_vocab, self.n_embd)
        self.ones("output_norm.weight", self.n_embd)
        if not tied:
            # Logits of standard deviation 4: the best one then leads by about 1, so ties are rare.
            self.matrix("output.weight", n_vocab, self.n_embd, std=4 * self.n_embd**-0.5)

    def close(self) -> None:
        self.gguf.write_header_to_file()
        self.gguf.write_kv_data_to_file()
        self.gguf.write_tensors_to_file()
        self.gguf.close()


def write_attention_model(
    path: Path | str,
    *,
    n_vocab: int = 512,
    n_layer: int = 2,
    n_embd: int = 64,
    n_ff: int = 128,
    n_head: int = N_HEAD,
    n_head_kv: int = N_HEAD_KV,
    head_dim: int = HEAD_DIM,
    tied: bool = False,
    q8_0: bool = False,
    sentencepiece: bool = False,
    seed: int = 0,
    settings: dict[str, int | float] | None = None,
    suppress_ids: tuple[int, ...] = (),
    extra_control: tuple[str, ...] = (),
    extra_defined: tuple[str, ...] = (),
) -> None:
    """Plain attention (qwen3). sentencepiece: a vocabulary with BOS and space prefix instead of byte pairs.

    settings: general.sampling.* of the file. extra_control: more control tokens, of a vocabulary of byte pairs;
    extra_defined: user-defined ones of any vocabulary, which texts name even where no control tokens are parsed.
    """
    model = _Model(path, "qwen3", n_embd, n_layer, n_ff, seed, q8_0)
    for key, value in (settings or {}).items():
        (model.gguf.add_float32 if isinstance(value, float) else model.gguf.add_int32)(f"general.sampling.{key}", value)
    if suppress_ids:
        model.gguf.add_array("tokenizer.ggml.suppress_tokens", suppress_ids)
    model.heads(n_head, n_head_kv, head_dim)
    if sentencepiece:
        _add_sentencepiece(model.gguf, n_vocab, extra_defined)
    else:
        _add_byte_pairs(model.gguf, n_vocab, extra_control, extra_defined)
    model.embeddings(n_vocab, tied=tied)
    for i in range(n_layer):
        model.ones(f"blk.{i}.attn_norm.weight", n_embd)
        model.attention(f"blk.{i}", n_head, n_head_kv, head_dim)
        model.ones(f"blk.{i}.ffn_norm.weight", n_embd)
        model.feed_forward(f"blk.{i}")
    model.close()


def write_large_vocab_model(path: Path | str, *, n_vocab: int = 248_320, seed: int = 0) -> None:
    """One small layer with the vocabulary size of Qwen3.5, for costs of O(n_vocab)."""
    write_attention_model(path, n_vocab=n_vocab, n_layer=1, n_embd=32, n_ff=64, tied=True, q8_0=True, seed=seed)


def write_06b_model(path: Path | str, *, n_vocab: int = 151_936, n_layer: int = 28, seed: int = 0) -> None:
    """The shape of Qwen3-0.6B in Q8_0 (610 MiB), for benchmarks."""
    write_attention_model(
        path,
        n_vocab=n_vocab,
        n_layer=n_layer,
        n_embd=1024,
        n_ff=3072,
        n_head=16,
        n_head_kv=8,
        head_dim=128,
        tied=True,
        q8_0=True,
        seed=seed,
    )


def write_swa_model(
    path: Path | str,
    *,
    n_vocab: int = 512,
    n_layer: int = 2,
    n_embd: int = 64,
    n_ff: int = 128,
    window: int = SLIDING_WINDOW,
    seed: int = 0,
) -> None:
    """Sliding-window attention of `window` tokens in every even layer, full attention in the others (gemma3)."""
    model = _Model(path, "gemma3", n_embd, n_layer, n_ff, seed, q8_0=False)
    model.heads(N_HEAD, N_HEAD_KV, HEAD_DIM)
    model.gguf.add_sliding_window(window)
    model.gguf.add_sliding_window_pattern([i % 2 == 0 for i in range(n_layer)])
    _add_byte_pairs(model.gguf, n_vocab)
    model.embeddings(n_vocab, tied=False)
    for i in range(n_layer):
        model.ones(f"blk.{i}.attn_norm.weight", n_embd)
        model.attention(f"blk.{i}", N_HEAD, N_HEAD_KV, HEAD_DIM)
        model.ones(f"blk.{i}.post_attention_norm.weight", n_embd)
        model.ones(f"blk.{i}.ffn_norm.weight", n_embd)
        model.feed_forward(f"blk.{i}")
        model.ones(f"blk.{i}.post_ffw_norm.weight", n_embd)
    model.close()


def write_moe_model(
    path: Path | str,
    *,
    n_vocab: int = 512,
    n_layer: int = 2,
    n_embd: int = 64,
    n_ff: int = 64,
    n_expert: int = 8,
    n_expert_used: int = 2,
    seed: int = 0,
) -> None:
    """Mixture of experts (qwen3moe): n_expert_used of n_expert feed-forwards of size n_ff for each token."""
    model = _Model(path, "qwen3moe", n_embd, n_layer, n_ff, seed, q8_0=False)
    model.heads(N_HEAD, N_HEAD_KV, HEAD_DIM)
    model.gguf.add_expert_count(n_expert)
    model.gguf.add_expert_used_count(n_expert_used)
    model.gguf.add_expert_feed_forward_length(n_ff)
    _add_byte_pairs(model.gguf, n_vocab)
    model.embeddings(n_vocab, tied=False)
    for i in range(n_layer):
        model.ones(f"blk.{i}.attn_norm.weight", n_embd)
        model.attention(f"blk.{i}", N_HEAD, N_HEAD_KV, HEAD_DIM)
        model.ones(f"blk.{i}.ffn_norm.weight", n_embd)
        # llama.cpp's router is float32.
        model.vector(f"blk.{i}.ffn_gate_inp.weight", -0.5, 0.5, n_expert, n_embd)
        model.matrix(f"blk.{i}.ffn_gate_exps.weight", n_expert, n_ff, n_embd)
        model.matrix(f"blk.{i}.ffn_up_exps.weight", n_expert, n_ff, n_embd)
        model.matrix(f"blk.{i}.ffn_down_exps.weight", n_expert, n_embd, n_ff)
    model.close()


def write_hybrid_model(
    path: Path | str,
    *,
    n_vocab: int = 512,
    n_layer: int = 4,
    n_embd: int = 64,
    n_ff: int = 128,
    n_state_heads: int = 2,
    seed: int = 0,
) -> None:
    """Gated delta net in every even layer, full attention in the others (qwen35)."""
    model = _Model(path, "qwen35", n_embd, n_layer, n_ff, seed, q8_0=False)
    model.heads(N_HEAD, N_HEAD_KV, HEAD_DIM)
    model.gguf.add_rope_dimension_count(16)
    model.gguf.add_rope_dimension_sections([3, 3, 2, 0])
    model.gguf.add_full_attention_interval(2)
    n_inner = n_state_heads * HEAD_DIM
    model.gguf.add_ssm_conv_kernel(4)
    model.gguf.add_ssm_state_size(HEAD_DIM)
    model.gguf.add_ssm_group_count(n_state_heads)
    model.gguf.add_ssm_time_step_rank(n_state_heads)
    model.gguf.add_ssm_inner_size(n_inner)
    _add_byte_pairs(model.gguf, n_vocab)
    model.embeddings(n_vocab, tied=False)
    for i in range(n_layer):
        model.ones(f"blk.{i}.attn_norm.weight", n_embd)
        if i % 2:
            model.attention(f"blk.{i}", N_HEAD, N_HEAD_KV, HEAD_DIM, gated=True)
        else:
            model.matrix(f"blk.{i}.attn_qkv.weight", 3 * n_inner, n_embd)
            model.matrix(f"blk.{i}.attn_gate.weight", n_inner, n_embd)
            model.vector(f"blk.{i}.ssm_conv1d.weight", -0.5, 0.5, 3 * n_inner, 4)
            model.vector(f"blk.{i}.ssm_dt.bias", -1.0, 1.0, n_state_heads)
            model.vector(f"blk.{i}.ssm_a", -0.5, -0.01, n_state_heads)  # the logarithm of the decay: below 0
            model.matrix(f"blk.{i}.ssm_alpha.weight", n_state_heads, n_embd)
            model.matrix(f"blk.{i}.ssm_beta.weight", n_state_heads, n_embd)
            model.ones(f"blk.{i}.ssm_norm.weight", HEAD_DIM)
            model.matrix(f"blk.{i}.ssm_out.weight", n_embd, n_inner)
        model.ones(f"blk.{i}.post_attention_norm.weight", n_embd)
        model.feed_forward(f"blk.{i}")
    model.close()


def write_encoder_model(
    path: Path | str,
    *,
    n_embd: int = 64,
    n_layer: int = 1,
    n_ff: int = 128,
    n_head: int = N_HEAD,
    seed: int = 0,
    pooling: PoolingType = PoolingType.CLS,
    bos_id: int = 2,
    q8_0: bool = False,
) -> None:
    """Attention without a mask, words of a word-piece vocabulary (bert): makes embeddings, no text."""
    model = _Model(path, "bert", n_embd, n_layer, n_ff, seed, q8_0)
    model.gguf.add_head_count(n_head)
    model.gguf.add_layer_norm_eps(1e-12)
    model.gguf.add_causal_attention(False)
    model.gguf.add_pooling_type(pooling)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *[f"▁{char}" for char in "abcdefghijklmnopqrstuvwxyz"]]
    model.gguf.add_tokenizer_model("bert")
    model.gguf.add_token_list(tokens)
    model.gguf.add_token_types([TokenType.CONTROL] * 5 + [TokenType.NORMAL] * (len(tokens) - 5))
    model.gguf.add_token_type_count(2)
    model.gguf.add_bos_token_id(bos_id)
    model.gguf.add_eos_token_id(3)
    model.gguf.add_sep_token_id(3)
    model.gguf.add_unk_token_id(1)
    model.matrix("token_embd.weight", len(tokens), n_embd)
    model.vector("token_types.weight", -0.5, 0.5, 2, n_embd)
    model.vector("position_embd.weight", -0.5, 0.5, N_CTX_TRAIN, n_embd)
    for name in ("token_embd_norm", *(f"blk.{i}.{norm}_norm" for i in range(n_layer) for norm in NORMS)):
        model.ones(f"{name}.weight", n_embd)
        model.vector(f"{name}.bias", -0.5, 0.5, n_embd)
    for i in range(n_layer):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            model.matrix(f"blk.{i}.{name}.weight", n_embd, n_embd)
            model.vector(f"blk.{i}.{name}.bias", -0.5, 0.5, n_embd)
        for name, rows, columns in (("ffn_up", n_ff, n_embd), ("ffn_down", n_embd, n_ff)):
            model.matrix(f"blk.{i}.{name}.weight", rows, columns)
            model.vector(f"blk.{i}.{name}.bias", -0.5, 0.5, rows)
    model.close()


def _add_byte_pairs(
    gguf: GGUFWriter, n_vocab: int, extra_control: tuple[str, ...] = (), defined: tuple[str, ...] = ()
) -> None:
    """A vocabulary of bytes, merges, words " w0", " w1", ... that no text is encoded to, and control tokens."""
    control = (*CONTROL_TOKENS, *extra_control)
    tokens = [*_byte_chars(), *[merge.replace(" ", "") for merge in MERGES]]
    tokens += [f"Ġw{i}" for i in range(n_vocab - len(tokens) - len(defined) - len(control))]
    types = [TokenType.NORMAL] * len(tokens) + [TokenType.USER_DEFINED] * len(defined)
    types += [TokenType.CONTROL] * len(control)
    tokens += defined
    gguf.add_tokenizer_model("gpt2")
    gguf.add_tokenizer_pre("qwen2")
    gguf.add_token_list([*tokens, *control])
    gguf.add_token_types(types)
    gguf.add_token_merges(MERGES)
    gguf.add_eos_token_id(len(tokens) + CONTROL_TOKENS.index("<|im_end|>"))
    gguf.add_pad_token_id(len(tokens) + CONTROL_TOKENS.index("<|endoftext|>"))
    gguf.add_add_bos_token(False)
    gguf.add_chat_template(CHAT_TEMPLATE)


def _add_sentencepiece(gguf: GGUFWriter, n_vocab: int, defined: tuple[str, ...] = ()) -> None:
    """A vocabulary of <unk>, <s>, </s>, 256 byte tokens, some pieces, and words. Texts begin with <s> and a space."""
    tokens = ["<unk>", "<s>", "</s>", *[f"<0x{i:02X}>" for i in range(256)], *SENTENCES]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL] + [TokenType.BYTE] * 256
    tokens += [f"▁w{i}" for i in range(n_vocab - len(tokens) - len(defined))]
    types += [TokenType.NORMAL] * (len(tokens) - len(types)) + [TokenType.USER_DEFINED] * len(defined)
    tokens += defined
    gguf.add_tokenizer_model("llama")
    gguf.add_tokenizer_pre("default")
    gguf.add_token_list(tokens)
    gguf.add_token_scores([float(len(token)) for token in tokens])
    gguf.add_token_types(types)
    gguf.add_bos_token_id(1)
    gguf.add_eos_token_id(2)
    gguf.add_unk_token_id(0)
    gguf.add_add_bos_token(True)
    gguf.add_add_space_prefix(True)


def _byte_chars() -> list[str]:
    """The printable character that represents each byte in byte-level BPE (GPT-2)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]
