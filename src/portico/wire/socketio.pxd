cimport cython


@cython.final
cdef class Packet:
    cdef public int type
    cdef public str namespace
    cdef public object id, data


@cython.final
cdef class Decoder:
    cdef public Py_ssize_t max_bytes
    cdef Packet _packet
    cdef list _attachments
    cdef Py_ssize_t _expected, _size

    cpdef feed(self, str text)
    @cython.locals(packet=Packet)
    cpdef feed_binary(self, bytes data)
    cpdef clear(self)


cpdef list event(str json)
cdef _check_event(data)
@cython.locals(at=Py_ssize_t, end=Py_ssize_t, kind=int, namespace=str)
cdef tuple _parse(str text)
cdef Py_ssize_t _digits(str text, Py_ssize_t at) except -1
cdef _number(str digits)
cdef _json(str text)
@cython.locals(kind=int)
cpdef check(Packet packet)
cdef bint _is_plain(value, int depth) except -1
cdef _take_out(value, list attachments, int depth)
cdef _fill(value, list attachments, int depth=*)
cpdef bytes to_json(data)
cpdef plain_json(args)
cpdef tuple encode_args(args)
cpdef bytes head(int kind, str namespace, id, Py_ssize_t attachments)
cpdef tuple encode(int kind, str namespace=*, id=*, data=*)
