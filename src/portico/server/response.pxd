cimport cython
from libc.stdint cimport int64_t
from portico.net.stream cimport Stream as Wire
from portico.server.host cimport Host
from portico.wire.framing cimport RequestHead as Head


cdef class Response:
    cdef object _connection
    cdef Host _server
    cdef readonly Wire stream
    cdef readonly Head head
    cdef public bint keep_alive, started, over
    cdef readonly int status
    cdef readonly int64_t sent
    cdef bint _body_complete, _dated, _announced, _chunked, _no_body, _body_ended, _trailers_said
    cdef bytes _fields
    cdef int64_t _left
    cdef list _trailers

    cdef _set_up(self, connection, Head head)
    @cython.locals(lines=list)
    cpdef prepare(self, dict message)
    cpdef announce(self, size)
    @cython.locals(parts=list, server=Host)
    cdef bytes _head_bytes(self, Py_ssize_t size, bint more)
    cpdef bint chunks(self, bint more) except -1
    cpdef bytes frame(self, Py_ssize_t size, bint more)
    @cython.locals(before=bytes, after=bytes)
    cpdef bint write(self, bytes piece, bint more) except -1
    cpdef cut(self, cause=*)
    cdef _misframed(self, how)
