# cython: language_level=3
"""The compiled twin of portico.wire.masking.apply_mask: same arguments, same result, same errors."""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcpy


cpdef bytes apply_mask(object data, Py_ssize_t start, Py_ssize_t end, unsigned int key, unsigned int phase):
    cdef const unsigned char* source
    cdef unsigned char* target
    cdef Py_ssize_t size, length, at = 0
    cdef unsigned char pattern[8]
    cdef uint64_t word, wide
    cdef int i
    cdef bytes result
    if isinstance(data, bytes):
        source = <const unsigned char*> PyBytes_AS_STRING(data)
        size = PyBytes_GET_SIZE(data)
    elif isinstance(data, bytearray):
        source = <const unsigned char*> PyByteArray_AS_STRING(data)
        size = PyByteArray_GET_SIZE(data)
    else:
        raise TypeError(f"expected bytes or bytearray, got {type(data).__name__}")
    if not 0 <= start <= end <= size:
        raise IndexError(f"span {start}:{end} of {size} bytes")
    length = end - start
    source += start
    if key == 0:
        return PyBytes_FromStringAndSize(<const char*> source, length)
    result = PyBytes_FromStringAndSize(NULL, length)
    target = <unsigned char*> PyBytes_AS_STRING(result)
    for i in range(8):
        pattern[i] = <unsigned char> ((key >> (24 - 8 * ((i + phase) & 3))) & 0xFF)
    memcpy(&wide, pattern, 8)
    while length - at >= 8:
        memcpy(&word, source + at, 8)
        word ^= wide
        memcpy(target + at, &word, 8)
        at += 8
    while at < length:
        target[at] = source[at] ^ pattern[at & 7]
        at += 1
    return result
