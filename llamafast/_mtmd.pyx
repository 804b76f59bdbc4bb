"""The façade over libmtmd: Projector. Only this module calls mtmd.h, and of that only the core, which reads no files.

libmtmd ends the process for some inputs; each of them is refused here before the call.
"""

from cpython cimport array
from cpython.bytes cimport PyBytes_AS_STRING
from libc.math cimport isfinite
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.string cimport memcpy

cimport cython
cimport llamafast._mtmd_lib as lib
from llamafast._core cimport Model, check_gguf, log_line, take_log
from llamafast._llama cimport LLAMA_FLASH_ATTN_TYPE_DISABLED, LLAMA_FLASH_ATTN_TYPE_ENABLED

import array as _array
import os
from dataclasses import dataclass

from llamafast.errors import RequestFailedError, InvalidRequestError, ModelLoadError

cdef enum:
    MAX_SIDE = 65_536               # pixels; libmtmd multiplies both sides as 32-bit integers
    MAX_RATIO = 200                 # of the sides: the resizer makes a side of more than 65,536 pixels otherwise
    MAX_TOKENS = 16_384             # libmtmd multiplies it by the pixels of a token, as 32-bit integers
    MAX_SAMPLES = 1 << 30           # libmtmd counts samples in 32 bits

# Seconds. libmtmd's sound encoders end the process for a few samples.
MIN_AUDIO_S = 0.1

cdef int num_projectors = 0, num_media = 0
cdef array.array FLOATS = _array.array("f"), INTS = _array.array("i")

# libmtmd has a log of its own.
lib.mtmd_log_set(log_line, NULL)


def live_handles() -> dict[str, int]:
    """How many native objects are alive, by class. For leak tests."""
    return {"Projector": num_projectors, "Media": num_media}


@dataclass(frozen=True)
class MediaChunk:
    """Rows of embeddings that one encoding gives.

    number: int, its place among all chunks of its Media, texts included.
    n_rows, n_pos: int, rows and positions, as in MediaSpan.
    offsets: array('i') or None, shape (3, n_rows): the positions t, y and x of each row of an image under M-RoPE, minus
        t of the first row. None: the rows take consecutive positions.
    is_causal: bool, whether a row of the chunk attends only to the rows before it.
    """

    number: int
    n_rows: int
    n_pos: int
    offsets: object
    is_causal: bool

    @property
    def last_t_offset(self) -> int:
        """As in MediaSpan."""
        return self.n_rows - 1 if self.offsets is None else self.offsets[self.n_rows - 1]


@cython.final
@cython.no_gc_clear                     # the projector outlives its media
cdef class Media:
    """One image or sound, cut into chunks: texts (token ids) and MediaChunks, in the order of the prompt.

    parts: tuple, of tuple[int, ...] and MediaChunk. has_data: bool, False: only the sizes are known.
    """

    cdef lib.mtmd_input_chunks* ptr
    cdef readonly Projector projector
    cdef readonly tuple parts
    cdef readonly bint has_data

    def __init__(self):
        raise TypeError("Projector makes media")

    def __dealloc__(self):
        global num_media
        if self.ptr is not NULL:
            lib.mtmd_input_chunks_free(self.ptr)
            num_media -= 1

    @property
    def chunks(self) -> list:
        """The MediaChunks of parts."""
        return [part for part in self.parts if isinstance(part, MediaChunk)]


@cython.final
@cython.no_gc_clear                     # the garbage collector must not free the model first
cdef class Projector:
    """Encodes images and sounds for a Model. Raises ModelLoadError.

    image_min_tokens, image_max_tokens: rows of an image, 1 to 16384; None: as the file says. threads: of an encoding.

    Any thread may call image() and audio(), several at once. encode() is for one thread at a time.
    """

    cdef lib.mtmd_context* ptr
    cdef readonly Model model           # keeps the weights alive
    cdef readonly str path
    cdef readonly bint sees, hears, uses_mrope
    cdef readonly int sample_rate       # of sounds, in Hz; 0: it does not hear

    def __init__(self, Model model not None, path, *, int threads=1, image_min_tokens=None, image_max_tokens=None,
                 use_gpu=None, flash_attn=None, bint warmup=False):
        global num_projectors
        cdef lib.mtmd_context_params params = lib.mtmd_context_params_default()
        cdef bytes raw
        cdef const char* c_path
        if self.ptr is not NULL:
            raise ModelLoadError("a Projector is loaded once")
        if model.vocab_only:
            raise ModelLoadError("a projector needs a model with weights, not vocab_only")
        if not 1 <= threads <= 512:
            raise ModelLoadError(f"threads is {threads}; it must be 1 to 512")
        self.model = model
        self.path = os.fspath(path)
        check_gguf(self.path)
        params.n_threads = threads
        params.print_timings = False
        params.warmup = warmup
        params.image_min_tokens = checked_tokens("image_min_tokens", image_min_tokens, params.image_min_tokens)
        params.image_max_tokens = checked_tokens("image_max_tokens", image_max_tokens, params.image_max_tokens)
        if None not in (image_min_tokens, image_max_tokens) and image_min_tokens > image_max_tokens:
            raise ModelLoadError(f"image_min_tokens {image_min_tokens} is above image_max_tokens {image_max_tokens}")
        if use_gpu is not None:
            params.use_gpu = use_gpu
        if flash_attn is not None:
            params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attn else LLAMA_FLASH_ATTN_TYPE_DISABLED
        raw = os.fsencode(self.path)
        c_path = raw
        take_log()
        with nogil:
            self.ptr = lib.mtmd_init_from_file(c_path, model.ptr, params)
        if self.ptr is NULL:
            raise ModelLoadError(f"cannot load the projector {self.path}: {take_log()}")
        num_projectors += 1
        self.sees = lib.mtmd_support_vision(self.ptr)
        self.hears = lib.mtmd_support_audio(self.ptr)
        self.uses_mrope = lib.mtmd_decode_use_mrope(self.ptr)
        self.sample_rate = max(0, lib.mtmd_get_audio_sample_rate(self.ptr))

    def __dealloc__(self):
        global num_projectors
        if self.ptr is not NULL:
            lib.mtmd_free(self.ptr)
            num_projectors -= 1

    def image(self, int64_t width, int64_t height, bytes rgb=None) -> Media:
        """The chunks of an image. rgb: width * height * 3 bytes, row by row; None: only the sizes are wanted.

        Raises InvalidRequestError for sizes that libmtmd does not bear, ValueError for bytes of another number.
        """
        cdef const unsigned char* data = NULL
        cdef lib.mtmd_bitmap* bitmap
        if not self.sees:
            raise InvalidRequestError("this model takes no images")
        if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE) or width * height * 3 >= <int64_t> 1 << 31:
            raise InvalidRequestError(f"an image of {width} x {height} pixels is too large")
        if max(width, height) > MAX_RATIO * min(width, height):
            raise InvalidRequestError(f"one side of the image is more than {MAX_RATIO} times as long as the other")
        if rgb is not None:
            if len(rgb) != width * height * 3:
                raise ValueError(f"{len(rgb)} bytes for {width} x {height} pixels")
            data = <const unsigned char*> PyBytes_AS_STRING(rgb)
        with nogil:
            bitmap = lib.mtmd_bitmap_init(<uint32_t> width, <uint32_t> height, data)
        return self.cut(bitmap, data is not NULL)

    def audio(self, array.array samples not None) -> Media:
        """The chunks of a sound. samples: array('f'), one channel at sample_rate.

        Raises InvalidRequestError for a sound that is too short or long, or has numbers that are not finite.
        """
        cdef const float* data = samples.data.as_floats
        cdef size_t n = len(samples)
        cdef lib.mtmd_bitmap* bitmap
        if samples.ob_descr.typecode != c'f':
            raise ValueError("samples must be an array('f')")
        if not self.hears:
            raise InvalidRequestError("this model takes no sounds")
        if not MIN_AUDIO_S * self.sample_rate <= n <= MAX_SAMPLES:
            raise InvalidRequestError(f"a sound of {n / max(1, self.sample_rate):g} seconds is too short or too long")
        if not all_finite(data, n):
            raise InvalidRequestError("some samples of the sound are not finite numbers")
        with nogil:
            bitmap = lib.mtmd_bitmap_init_from_audio(n, data)
        return self.cut(bitmap, True)

    def encode(self, Media media not None, chunk) -> object:
        """The embeddings of a MediaChunk of `media`: array('f'), shape (n_rows, model.n_embd_inp).

        Raises InvalidRequestError for numbers that are not finite, RequestFailedError if the encoding fails.
        """
        cdef const lib.mtmd_input_chunk* ptr
        cdef size_t n, number = chunk.number
        cdef array.array out
        cdef float* result
        cdef int status
        if media.projector is not self:
            raise ValueError("the media are of another projector")
        if not media.has_data:
            raise ValueError("these media have sizes only")
        if number >= lib.mtmd_input_chunks_size(media.ptr) or media.parts[number] is not chunk:
            raise ValueError("the chunk is of other media")
        ptr = lib.mtmd_input_chunks_get(media.ptr, number)
        n = <size_t> chunk.n_rows * self.model.n_embd_inp
        out = array.clone(FLOATS, n, zero=False)
        take_log()
        with nogil:
            status = lib.mtmd_encode_chunk(self.ptr, ptr)
            result = lib.mtmd_get_output_embd(self.ptr) if status == 0 else NULL
            if result is not NULL:
                memcpy(out.data.as_floats, result, n * sizeof(float))
        if result is NULL:
            raise RequestFailedError(f"the projector failed: {take_log()}")
        if not all_finite(out.data.as_floats, n):
            raise InvalidRequestError("the projector gives numbers for this file that are not finite")
        return out

    cdef Media cut(self, lib.mtmd_bitmap* bitmap, bint has_data):
        """Cut a bitmap, which it frees, into chunks."""
        global num_media
        cdef lib.mtmd_input_part part
        cdef const lib.mtmd_input_part* parts = &part
        cdef Media media = Media.__new__(Media)
        cdef int status = 2
        part.text = NULL
        part.bitmap = bitmap
        media.projector = self
        media.has_data = has_data
        take_log()
        try:
            media.ptr = lib.mtmd_input_chunks_init()
            num_media += 1
            with nogil:
                status = lib.mtmd_tokenize_from_parts(self.ptr, media.ptr, &parts, 1, False)
        finally:
            lib.mtmd_bitmap_free(bitmap)
        if status != 0:
            raise InvalidRequestError(f"the projector refuses this file: {take_log()}")
        media.parts = tuple([self.part_of(media.ptr, i) for i in range(lib.mtmd_input_chunks_size(media.ptr))])
        if not media.chunks:
            raise InvalidRequestError("the projector makes nothing of this file")
        return media

    cdef object part_of(self, lib.mtmd_input_chunks* chunks, size_t number):
        cdef const lib.mtmd_input_chunk* chunk = lib.mtmd_input_chunks_get(chunks, number)
        cdef size_t n = 0, i
        cdef const int32_t* ids
        cdef int64_t n_rows, n_pos
        cdef object offsets = None
        if lib.mtmd_input_chunk_get_type(chunk) == lib.MTMD_INPUT_CHUNK_TYPE_TEXT:
            ids = lib.mtmd_input_chunk_get_tokens_text(chunk, &n)
            return tuple([ids[i] for i in range(n)])
        n_rows, n_pos = lib.mtmd_input_chunk_get_n_tokens(chunk), lib.mtmd_input_chunk_get_n_pos(chunk)
        if not 1 <= n_pos <= n_rows:
            raise InvalidRequestError("the projector makes nothing of this file: it may be too small")
        if self.uses_mrope and lib.mtmd_input_chunk_get_type(chunk) == lib.MTMD_INPUT_CHUNK_TYPE_IMAGE:
            offsets = offsets_of(chunk, n_rows)
        return MediaChunk(number, n_rows, n_pos, offsets, not lib.mtmd_decode_use_non_causal(self.ptr, chunk))


cdef array.array offsets_of(const lib.mtmd_input_chunk* chunk, int64_t n_rows):
    """The offsets of an image's MediaChunk, from what libmtmd says of positions from 0 on."""
    cdef array.array out = array.clone(INTS, 3 * n_rows, zero=False)
    cdef int* values = out.data.as_ints
    cdef const lib.mtmd_image_tokens* image = lib.mtmd_input_chunk_get_tokens_image(chunk)
    cdef lib.mtmd_decoder_pos pos
    cdef int64_t i
    if image is NULL:
        raise InvalidRequestError("images of this kind of projector are not supported yet")
    for i in range(n_rows):
        pos = lib.mtmd_image_tokens_get_decoder_pos(image, 0, i)
        if pos.z != 0 or (i > 0 and <int> pos.t < values[i - 1]) or (i == 0 and pos.t != 0):
            raise InvalidRequestError("images of this kind of projector are not supported yet")
        values[i], values[n_rows + i], values[2 * n_rows + i] = pos.t, pos.y, pos.x
    return out


cdef bint all_finite(const float* values, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if not isfinite(values[i]):
            return False
    return True


cdef int checked_tokens(str name, value, int default) except? -2:
    if value is None:
        return default
    if not 1 <= value <= MAX_TOKENS:
        raise ModelLoadError(f"{name} is {value}; it must be 1 to {MAX_TOKENS}")
    return value
