"""The rarer filters: C interface. No llama.h here."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from llamafast._kernels cimport Noise, RowParams, Scratch

cdef struct FilterParams:
    RowParams row
    float top_n_sigma           # <= 0: off
    float typical_p             # >= 1: off
    float xtc_probability       # <= 0: off
    float xtc_threshold
    float dynatemp_range        # <= 0: off
    float dynatemp_exponent
    int32_t mirostat            # 0: off; 1, 2: replaces all filters above

# One draw: top_n_sigma -> top_k -> typical_p -> top_p -> min_p -> xtc -> temperature -> race (llama.cpp's default
# order), or temperature -> mirostat -> race. Greedy, without filters, if the temperature cannot be above 0.
# IN mask, also: bit masks (bit i % 32 of word i // 32); only tokens with a set bit in both are drawn; NULL: all.
# IN mu: mirostat's state, in bits. OUT surprise: the token's surprise in bits, with mirostat only.
# Returns -1 if mask is given and no token in it is above -inf. Does not change row. scratch must be reserved for n.
cdef int32_t filtered_draw(const float* row, int32_t n, const uint32_t* mask, const uint32_t* also,
                           const FilterParams* params, float mu, const Noise* noise, Scratch* scratch,
                           float* surprise) except -2 nogil
