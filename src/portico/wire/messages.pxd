cimport cython
from libc.stdint cimport int64_t
from portico.wire._masking cimport apply_mask
from portico.wire.frames cimport close_payload, encode_frame, encode_masked_frame, parse_close

cdef list BINARY_HEADERS, TEXT_HEADERS
cdef int OPEN, CLOSE_SENT, CLOSE_RECEIVED, CLOSED, FAILED


cdef int SCAN_BYTES, EVENT_BYTES


@cython.final
cdef class Ping:
    cdef readonly bytes payload


@cython.final
cdef class Pong:
    cdef readonly bytes payload


@cython.final
cdef class Closing:
    cdef readonly int code
    cdef readonly str reason


@cython.final
cdef class Failed:
    cdef readonly object cause
    cdef readonly int code
    cdef readonly str reason


@cython.final
@cython.no_gc  # nothing that it holds can lead back to it
cdef class Messages:
    cdef readonly object codec
    cdef readonly unsigned char client
    cdef readonly unsigned char state
    cdef unsigned char _in_frame, _last, _packed, _close_sent, _opcode, _phase
    cdef unsigned int _key, _produced, _fragments, _max_fragments, _packed_size
    cdef public unsigned int max_message, received, sent
    cdef int64_t _remaining
    cdef bytes _header, _rest, _utf8
    cdef bytearray _assembly

    cpdef bint assembling(self)
    cpdef Py_ssize_t held(self) except -1
    cpdef bint pending(self)
    cpdef list feed(self, data)
    cpdef list feed_eof(self)
    @cython.locals(events=list, at=Py_ssize_t)
    cpdef list scan(self, bytearray data, Py_ssize_t end)
    @cython.locals(
        available=Py_ssize_t, first="unsigned char", second="unsigned char", opcode="unsigned char", length=int64_t,
        start=Py_ssize_t, size=Py_ssize_t, key="unsigned int", stop=Py_ssize_t, payload=bytes, text=str,
    )
    cdef Py_ssize_t _frame(self, bytearray data, Py_ssize_t at, Py_ssize_t end, list events) except -2
    cdef Py_ssize_t _keep(self, bytearray data, Py_ssize_t at, Py_ssize_t end) except -2
    cdef _check_rsv(self, unsigned char first)
    cdef int64_t _long_length(self, bytearray data, Py_ssize_t at, Py_ssize_t size) except -2
    @cython.locals(limit=int64_t, packed=bint)
    cdef _check_size(self, unsigned char opcode, unsigned char first, int64_t length)
    cdef _begin(self, unsigned char first, int64_t length, unsigned int key)
    @cython.locals(take=Py_ssize_t)
    cdef Py_ssize_t _payload(self, bytearray data, Py_ssize_t at, Py_ssize_t end, list events) except -2
    @cython.locals(assembly=bytearray)
    cdef _append(self, bytes piece)
    cdef _add(self, bytearray assembly, bytes piece)
    cdef _check_inflated(self)
    cdef _check_text(self, bytes piece)
    @cython.locals(assembly=bytearray, text=str)
    cdef _complete(self, list events)
    cdef _control(self, unsigned char opcode, bytes payload, list events)
    cdef _fail(self, error, list events)
    cdef _forget(self)
    @cython.locals(payload=bytes, size=Py_ssize_t, opcode=int)
    cpdef bytes encode(self, message)
    cpdef bytes ping(self, bytes payload=*)
    cpdef bytes pong(self, bytes payload=*)
    cpdef bytes close(self, code=*, reason=*)
    cpdef bytes close_answer(self, code)
    cdef bytes _control_out(self, int first, bytes payload)
    cdef bytes _frame_out(self, int first, bytes payload)
