"""Vectors of float32 as JSON text, without a Python object per number."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.math cimport isfinite
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <charconv>
    #include <cstdio>
    #include <cstdlib>
    // The shortest text that reads back as the same float32, at most 15 characters.
    static char * llamafast_write_float(char * to, float value) {
    #if defined(__cpp_lib_to_chars)
        return std::to_chars(to, to + 16, value).ptr;
    #else
        for (int digits = 6; digits <= 9; digits++) {
            int n = snprintf(to, 17, "%.*g", digits, (double) value);
            if (digits == 9 || strtof(to, nullptr) == value) { return to + n; }
        }
        return to;
    #endif
    }
    """
    char* llamafast_write_float(char* to, float value) nogil

cdef enum:
    MAX_CHARS = 17                      # of a number and the comma after it


def json_array(const unsigned char[::1] data) -> bytes:
    """The JSON array of the float32 numbers in `data`. Raises ValueError if one is not finite, or bytes are left over.
    """
    cdef Py_ssize_t n = data.shape[0] // 4, i, used = 0
    cdef float value
    cdef bint is_finite = True
    cdef char* start
    cdef char* to
    if data.shape[0] % 4:
        raise ValueError(f"{data.shape[0]} bytes are no float32 numbers")
    cdef bytes out = PyBytes_FromStringAndSize(NULL, 2 + n * MAX_CHARS)
    start = to = PyBytes_AS_STRING(out)
    with nogil:
        to[0] = b"["
        to += 1
        for i in range(n):
            memcpy(&value, &data[4 * i], 4)
            is_finite = is_finite and isfinite(value)
            to = llamafast_write_float(to, value)
            to[0] = b","
            to += 1
        if n:
            to -= 1
        to[0] = b"]"
        used = to + 1 - start
    if not is_finite:
        raise ValueError("JSON has no text for a number that is not finite")
    return out[:used]
