"""Makes calls through ctypes that llama.h answers with an abort, without our guards: `python core_traps.py NAME MODEL`.

Exit 0 means that libllama survived and accepted the call, 3 that it refused; a signal means that the process died.
"""

from __future__ import annotations

import ctypes
import sys

import llama_cpp.llama_cpp as raw

REFUSED = 3
SILENT = raw.llama_log_callback(lambda level, text, data: None)  # must outlive the calls


def open_context(path: str, **changes: int | bool):
    raw.llama_log_set(SILENT, None)
    model = raw.llama_model_load_from_file(path.encode(), raw.llama_model_default_params())
    params = raw.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max, params.n_outputs_max = 512, 32, 32, 4, 4
    params.n_threads = params.n_threads_batch = 1
    params.kv_unified = True
    for name, value in changes.items():
        setattr(params, name, value)
    return raw.llama_init_from_model(model, params)


def decode(context, n_tokens: int, *, outputs: int = 1, token: int = 5, seq_id: int = 0, pos: int = 0) -> int:
    batch = raw.llama_batch_init(n_tokens, 0, 1)
    batch.n_tokens = n_tokens
    for i in range(n_tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, pos + i, 1
        batch.seq_id[i][0] = seq_id
        batch.logits[i] = i >= n_tokens - outputs
    return raw.llama_decode(context, batch)


def nothing_wrong(path: str) -> int:
    return decode(open_context(path), 32, outputs=4)


def too_many_tokens(path: str) -> int:
    return decode(open_context(path), 33)


def too_many_outputs(path: str) -> int:
    return decode(open_context(path), 32, outputs=32)


def token_outside_vocabulary(path: str) -> int:
    return decode(open_context(path), 1, token=10_000_000)


def sequence_outside_range(path: str) -> int:
    return decode(open_context(path), 1, seq_id=99)


def remove_sequence_outside_range(path: str) -> int:
    raw.llama_memory_seq_rm(raw.llama_get_memory(open_context(path)), 999, -1, -1)
    return 0


def shift_what_cannot_shift(path: str) -> int:
    context = open_context(path)
    decode(context, 16)
    raw.llama_memory_seq_add(raw.llama_get_memory(context), 0, 4, 16, -2)
    return decode(context, 1, pos=14)


def copy_part_of_a_stream(path: str) -> int:
    context = open_context(path, kv_unified=False)
    decode(context, 16)
    raw.llama_memory_seq_cp(raw.llama_get_memory(context), 0, 1, 0, 8)
    return 0


def foreign_state(path: str) -> int:
    blob = (ctypes.c_uint8 * 64)(*range(64))
    return 0 if raw.llama_state_seq_set_data_ext(open_context(path), blob, 64, 0, 0) else REFUSED


# Of an encoder, for which every token is an output.


def encode_too_many_tokens(path: str) -> int:
    return decode(open_context(path, embeddings=True, n_outputs_max=64), 33)


def encode_too_many_outputs(path: str) -> int:
    return decode(open_context(path, embeddings=True), 32, outputs=32)


def encode_more_sequences_than_outputs(path: str) -> int:
    return decode(open_context(path, embeddings=True, n_seq_max=8, n_outputs_max=4), 2)


def encode_position_beyond_training(path: str) -> int:
    return decode(open_context(path, embeddings=True, n_ctx=65_536, n_outputs_max=32), 4, pos=32_768)


def unknown_pooling_type(path: str) -> int:
    return decode(open_context(path, embeddings=True, n_outputs_max=32, pooling_type=9), 4)


def tokenize_without_bos(path: str) -> int:
    raw.llama_log_set(SILENT, None)
    vocab = raw.llama_model_get_vocab(raw.llama_model_load_from_file(path.encode(), raw.llama_model_default_params()))
    ids = (raw.llama_token * 16)()
    return raw.llama_tokenize(vocab, b"a", 1, ids, 16, True, False) < 0


if __name__ == "__main__":
    sys.exit(REFUSED if globals()[sys.argv[1]](sys.argv[2]) else 0)
