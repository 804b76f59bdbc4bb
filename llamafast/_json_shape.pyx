"""Measures a JSON text in one pass without the GIL, before a parser builds objects from it."""

from libcpp.vector cimport vector

cimport cython


@cython.final
cdef class JsonShape:
    """The cost of parsing a JSON text. For other texts the numbers have no meaning.

    weight: sum over all values, about the time to build them in units of 50 ns: a number 1, a string 4, a list or an
    object 7, a name in an object 13.
    num_objects: number of objects.
    num_strings: number of strings, names included.
    depth: nesting depth of lists and objects.
    num_fields: number of names in the outermost object.
    largest: the name in the outermost object with the value of the largest weight, as written in the text.
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
    # OUT: all fields of out
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
            out.weight += 3             # plus 1 for the comma or bracket after it
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
    """Places at which the strings longer than `piece` bytes can be cut into pieces of about that size.

    Returns for each such string the offsets of its start, its cuts and its end. The bytes between two offsets are valid
    content of a JSON string. Strings that cannot be cut are omitted.
    """
    cdef vector[Py_ssize_t] places      # of all strings, each followed by -1
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
    # OUT places: places are appended
    cdef Py_ssize_t i = 0, since, escape
    cdef size_t first
    while i < n:
        i += 1
        if data[i - 1] != c'"':
            continue
        first = places.size()
        since = i
        escape = i - 12                 # start of the last \u escape
        places.push_back(i)
        while i < n and data[i] != c'"':
            if data[i] == c'\\':
                if i + 2 < n and data[i + 1] == c'u':
                    escape = i
                i += 2
            else:
                i += 1
            # No cut inside a character or a \u escape, or between two escapes that can be a surrogate pair.
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
