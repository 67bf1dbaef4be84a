cimport cython
# Under other names: what is cimported is hidden from those who import this module.
from portico.wire.framing cimport RequestHead as Head, scanned_head
from portico.wire.head cimport HeadReader as Reader


cdef class Parser:
    cdef object _limits
    cdef Reader _reader
    cdef object _body
    cdef bint _keep_alive, _closed
    cdef bytearray _tail
    cdef readonly Py_ssize_t taken

    @cython.locals(events=list, pos=Py_ssize_t, end=Py_ssize_t, size=Py_ssize_t)
    cpdef list feed(self, data, bint one=*)
    cpdef list feed_eof(self)
    cpdef Py_ssize_t body_left(self) except -1
    cpdef bytes tail(self)
    cdef Py_ssize_t _plain(self, bytes data, Py_ssize_t pos, list events) except -1
    cpdef bint _begin(self, line, list events) except -1
    @cython.locals(pieces=list)
    cdef Py_ssize_t _take_body(self, body, bytes data, Py_ssize_t pos, list events) except -1
    cdef _finish(self, list events)
    cdef _close(self)
    cdef bint _switched(self) except -1


cdef class RequestParser(Parser):
    cdef Py_ssize_t _max_head, _max_headers

    @cython.locals(scanned=tuple, end=Py_ssize_t, head=Head)
    cdef Py_ssize_t _plain(self, bytes data, Py_ssize_t pos, list events) except -1
    cpdef bint _begin(self, line, list events) except -1
    cdef _accept(self, Head head, list events)


cdef class ResponseParser(Parser):
    cdef bint _head_only

    cpdef bint _begin(self, line, list events) except -1
