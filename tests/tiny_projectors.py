"""Random-weight projector files (mmproj): one that sees, for models with plain positions, and one that hears."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter

N_EMBD = 32
N_HEAD = 2
N_FF = 64


class _Projector:
    """A GGUF of architecture `clip` being written. part: `vision` or `audio`; short: the prefix of its tensors."""

    def __init__(self, path: Path | str, part: str, kind: str, n_out: int, seed: int) -> None:
        self.gguf = GGUFWriter(path, "clip")
        self._rng = np.random.default_rng(seed)
        self._short = part[0]
        self.gguf.add_string("clip.projector_type", kind)
        self.gguf.add_bool(f"clip.has_{part}_encoder", True)
        self.gguf.add_bool("clip.use_gelu", True)
        prefix = f"clip.{part}"
        self.gguf.add_uint32(f"{prefix}.embedding_length", N_EMBD)
        self.gguf.add_uint32(f"{prefix}.feed_forward_length", N_FF)
        self.gguf.add_uint32(f"{prefix}.block_count", 1)
        self.gguf.add_uint32(f"{prefix}.attention.head_count", N_HEAD)
        self.gguf.add_float32(f"{prefix}.attention.layer_norm_epsilon", 1e-6)
        self.gguf.add_uint32(f"{prefix}.projection_dim", n_out)

    def noise(self, name: str, *shape: int) -> None:
        self.gguf.add_tensor(name, self._rng.standard_normal(shape, dtype=np.float32) * shape[-1] ** -0.5)

    def ones(self, name: str, size: int) -> None:
        self.gguf.add_tensor(name, np.ones(size, dtype=np.float32))

    def block(self) -> None:
        """One transformer layer and the norm after it."""
        block = f"{self._short}.blk.0"
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            self.noise(f"{block}.{name}.weight", N_EMBD, N_EMBD)
        for name in ("attn_q", "attn_v", "attn_out"):
            self.noise(f"{block}.{name}.bias", N_EMBD)
        for name in ("ln1", "ln2"):
            self.ones(f"{block}.{name}.weight", N_EMBD)
            self.noise(f"{block}.{name}.bias", N_EMBD)
        self.noise(f"{block}.ffn_up.weight", N_FF, N_EMBD)
        self.noise(f"{block}.ffn_down.weight", N_EMBD, N_FF)
        self.ones(f"{self._short}.post_ln.weight", N_EMBD)
        self.noise(f"{self._short}.post_ln.bias", N_EMBD)

    def close(self) -> None:
        self.gguf.write_header_to_file()
        self.gguf.write_kv_data_to_file()
        self.gguf.write_tensors_to_file()
        self.gguf.close()


def write_seeing_projector(path: Path | str, n_out: int = 64, seed: int = 1) -> None:
    """Gemma 3's: every image is scaled to 128 x 128 and takes 16 rows, which attend to each other."""
    made = _Projector(path, "vision", "gemma3", n_out, seed)
    made.gguf.add_uint32("clip.vision.image_size", 128)
    made.gguf.add_uint32("clip.vision.patch_size", 16)
    made.gguf.add_uint32("clip.vision.projector.scale_factor", 2)
    made.gguf.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    made.gguf.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    made.noise("v.patch_embd.weight", N_EMBD, 3, 16, 16)
    made.noise("v.patch_embd.bias", N_EMBD)
    made.noise("v.position_embd.weight", 64, N_EMBD)
    made.block()
    made.ones("mm.soft_emb_norm.weight", N_EMBD)
    made.noise("mm.input_projection.weight", N_EMBD, n_out)
    made.close()


def write_hearing_projector(path: Path | str, n_out: int = 64, seed: int = 2) -> None:
    """Qwen2-Audio's: 16 kHz, in windows of 30 seconds."""
    made = _Projector(path, "audio", "qwen2a", n_out, seed)
    made.gguf.add_uint32("clip.audio.num_mel_bins", 128)
    made.noise("a.conv1d.1.weight", N_EMBD, 128, 3)
    made.noise("a.conv1d.1.bias", N_EMBD, 1)
    made.noise("a.conv1d.2.weight", N_EMBD, N_EMBD, 3)
    made.noise("a.conv1d.2.bias", N_EMBD, 1)
    made.noise("a.position_embd.weight", 1500, N_EMBD)
    made.block()
    made.noise("mm.a.fc.weight", n_out, N_EMBD)
    made.noise("mm.a.fc.bias", n_out)
    made.close()
