cimport cython
from portico.wire.frames cimport encode_frame


@cython.final
cdef class Outgoing:
    cdef readonly bytes text
    cdef readonly object attachments, key
    cdef public bint droppable
    cdef readonly object offset
    cdef readonly Py_ssize_t size
    cdef readonly int messages
    cdef object _frames
    cdef bytes _payload
    cdef dict _packed

    cpdef framed(self)
    cdef _marked(self, frames)


@cython.locals(out=Outgoing)
cpdef Outgoing event(bytes text)
