"""The encoder's runner: one call of llama.cpp takes whole inputs and makes one vector of each."""

from cpython.bytearray cimport PyByteArray_AS_STRING
from libc.math cimport isfinite, sqrt
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset

cimport cython
cimport llamafast._llama as lib
from llamafast._core cimport Batch, Context, take_log

from llamafast.errors import DecodeError, ModelLoadError

POOLING_NONE, POOLING_MEAN, POOLING_CLS, POOLING_LAST, POOLING_RANK = range(5)


@cython.final
@cython.no_gc_clear                     # the context outlives the runner
cdef class EncoderRunner:
    """Encodes packs of whole inputs. The context must be made with embedding=True. Raises ModelLoadError.

    n_embd: floats of one vector.
    pooling_type: how the vectors of an input's tokens become one, as llama.h numbers it; 1 to 3.
    max_tokens: tokens of all inputs of one call; one input has at most max_input_tokens.
    encode_s: seconds spent in llama.cpp since the start.
    """

    cdef readonly Context context
    cdef readonly int n_embd, pooling_type, max_tokens, max_input_tokens
    cdef readonly double encode_s
    cdef Batch batch
    cdef int num_inputs                 # of the last call

    def __init__(self, Context context not None):
        self.context = context
        self.n_embd = lib.llama_model_n_embd_out(context.model.ptr)
        self.pooling_type = <int> lib.llama_pooling_type_of(context.ptr)
        self.max_tokens = min(context.n_batch, context.n_ubatch)
        self.max_input_tokens = min(self.max_tokens, context.model.n_ctx_train)
        if not POOLING_MEAN <= self.pooling_type <= POOLING_LAST:
            raise ModelLoadError(f"pooling type {self.pooling_type} makes no vector of an input")
        # llama.cpp ends the process where a call has more outputs than these, and every token is an output.
        if context.n_outputs_max < max(self.max_tokens, context.n_seq_max):
            raise ModelLoadError(f"n_outputs_max is {context.n_outputs_max}; an encoder needs {self.max_tokens}")
        self.batch = Batch(self.max_tokens)

    def encode(self, list inputs not None) -> None:
        """Compute the vector of each input: an array('i') of token ids. copy() then gives them.

        Raises DecodeError, which is fatal, and ValueError for what would end the process or give wrong numbers: no
        input or too many, an empty one, too many tokens, a token id that the vocabulary does not have.
        """
        cdef Context context = self.context
        cdef Batch batch = self.batch
        cdef int32_t n_vocab = context.model.n_vocab, seq = 0, i
        cdef int status
        cdef int64_t start
        self.num_inputs = 0
        if not 1 <= len(inputs) <= context.n_seq_max:
            raise ValueError(f"{len(inputs)} inputs; a call takes 1 to {context.n_seq_max}")
        batch.clear()
        for token_ids in inputs:
            if len(token_ids) > self.max_input_tokens:
                raise ValueError(f"an input of {len(token_ids)} tokens; the most is {self.max_input_tokens}")
            batch.extend(token_ids, 0, len(token_ids), 0, seq)
            seq += 1
        for i in range(batch.c.n_tokens):
            if not 0 <= batch.c.token[i] < n_vocab:
                raise ValueError(f"token id {batch.c.token[i]} is not in [0, {n_vocab})")
        memset(batch.c.logits, 1, batch.c.n_tokens)
        with nogil:
            start = lib.llama_time_us()
            status = lib.llama_decode(context.ptr, batch.c)
            if status == 0:
                lib.llama_synchronize(context.ptr)
            self.encode_s += (lib.llama_time_us() - start) * 1e-6
        context.clear()                 # a KV memory, where there is one, keeps nothing of an input
        if status != 0:
            raise DecodeError(f"llama_decode failed with {status}: {take_log()}", status)
        self.num_inputs = seq

    def copy(self, int i, bytearray out not None, Py_ssize_t offset, int n_dims) -> bool:
        """Write the first n_dims floats of input i's vector to out[offset:], as float32 of length 1 (L2).

        A vector of zeros stays one. Returns False, and writes nothing, if the vector is not finite. Raises ValueError
        for an input, a number of dimensions or a place that does not exist.
        """
        cdef const float* vector
        cdef float* target
        cdef double total = 0
        cdef float scale
        cdef int k
        if not 0 <= i < self.num_inputs:
            raise ValueError(f"input {i} of {self.num_inputs}")
        if not 1 <= n_dims <= self.n_embd:
            raise ValueError(f"{n_dims} dimensions of {self.n_embd}")
        if not 0 <= offset <= len(out) - 4 * n_dims or offset % 4:
            raise ValueError(f"{4 * n_dims} bytes at {offset} of {len(out)}")
        vector = lib.llama_get_embeddings_seq(self.context.ptr, i)
        if vector is NULL:
            raise ValueError(f"input {i} has no vector")
        target = <float*> (PyByteArray_AS_STRING(out) + offset)
        with nogil:
            for k in range(n_dims):
                total += <double> vector[k] * vector[k]
            if isfinite(total):
                scale = <float> (1.0 / sqrt(total)) if total > 0 else 0.0
                for k in range(n_dims):
                    target[k] = vector[k] * scale
        return isfinite(total)
