"""How large the parts of a JSON text are, found in one pass without the GIL, before anything builds objects of it."""

from libcpp.vector cimport vector

cimport cython


@cython.final
cdef class JsonShape:
    """What JSON text would cost a parser; for text that is not JSON the numbers mean nothing.

    weight: of all values: a number 1, a string 4, a list or an object 7, a name in an object 13; about what each takes
    to build, in units of 50 ns. num_objects, num_strings: of all, names included. depth: of lists and objects.
    num_fields: names in the outermost object. largest: the name there whose value weighs most, as it is written.
    """

    cdef readonly Py_ssize_t weight, num_objects, num_strings, depth, num_fields
    cdef readonly bytes largest


cdef struct Counts:
    Py_ssize_t weight
    Py_ssize_t num_objects
    Py_ssize_t num_strings
    Py_ssize_t depth
    Py_ssize_t num_fields
    Py_ssize_t largest_start
    Py_ssize_t largest_end


def shape_of(bytes raw not None) -> JsonShape:
    """The shape of a JSON text in UTF-8. Never fails."""
    cdef Counts counts
    cdef const unsigned char* data = raw
    cdef Py_ssize_t n = len(raw)
    with nogil:
        count(data, n, &counts)
    cdef JsonShape shape = JsonShape.__new__(JsonShape)
    shape.weight = counts.weight
    shape.num_objects = counts.num_objects
    shape.num_strings = counts.num_strings
    shape.depth = counts.depth
    shape.num_fields = counts.num_fields
    shape.largest = raw[counts.largest_start:counts.largest_end]
    return shape


cdef void count(const unsigned char* data, Py_ssize_t n, Counts* out) noexcept nogil:
    # OUT: all of out
    cdef Py_ssize_t i = 0, depth = 0, start = 0, end = 0, name_start = 0, name_end = 0, before = 0, most = -1
    cdef unsigned char c
    out[0] = Counts(1, 0, 0, 0, 0, 0, 0)
    while i < n:
        c = data[i]
        i += 1
        if c == c'"':
            start = i
            while i < n and data[i] != c'"':
                i += 2 if data[i] == c'\\' else 1
            end = min(i, n)
            i += 1
            out.num_strings += 1
            out.weight += 3             # the comma or the bracket beside it counts one
        elif c == c',':
            out.weight += 1
        elif c == c':':
            out.weight += 10
            if depth == 1:
                if out.num_fields and out.weight - before > most:
                    most = out.weight - before
                    out.largest_start, out.largest_end = name_start, name_end
                out.num_fields += 1
                name_start, name_end, before = start, end, out.weight
        elif c == c'{' or c == c'[':
            out.weight += 6
            out.num_objects += c == c'{'
            depth += 1
            if depth > out.depth:
                out.depth = depth
        elif c == c'}' or c == c']':
            depth -= 1
    if out.num_fields and out.weight - before > most:
        out.largest_start, out.largest_end = name_start, name_end


def long_strings(bytes raw not None, Py_ssize_t piece) -> list[list[int]]:
    """Of each string longer than `piece` bytes: where it begins, may be cut into pieces of about that size, and ends.

    What lies between two places is the inside of a JSON string by itself. Strings that cannot be cut are left out.
    """
    cdef vector[Py_ssize_t] places      # of all strings, -1 behind each
    cdef const unsigned char* data = raw
    cdef Py_ssize_t n = len(raw)
    with nogil:
        cut(data, n, piece, &places)
    strings, ends = [], []
    for place in places:
        if place >= 0:
            ends.append(place)
        else:
            strings.append(ends)
            ends = []
    return strings


cdef int cut(const unsigned char* data, Py_ssize_t n, Py_ssize_t piece, vector[Py_ssize_t]* places) except -1 nogil:
    # OUT places: appended to
    cdef Py_ssize_t i = 0, since, escape
    cdef size_t first
    while i < n:
        i += 1
        if data[i - 1] != c'"':
            continue
        first = places.size()
        since = i
        escape = i - 12                 # where the last \u stood
        places.push_back(i)
        while i < n and data[i] != c'"':
            if data[i] == c'\\':
                if i + 2 < n and data[i + 1] == c'u':
                    escape = i
                i += 2
            else:
                i += 1
            # Neither inside of a character nor of a \u, nor between two that may be halves of one.
            if i - since >= piece and i < n and data[i] != c'"' and data[i] & 0xC0 != 0x80 and (
                    i - escape >= 12 or (i - escape >= 6 and data[escape + 2] | 0x20 != c'd')):
                places.push_back(i)
                since = i
        if places.size() - first > 1 and i < n:
            places.push_back(i)
            places.push_back(-1)
        else:
            places.resize(first)
        i += 1
    return 0
