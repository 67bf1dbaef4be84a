cdef class Stepped:
    cdef public object _asyncio_future_blocking
    cdef object _callback, _context

    cpdef resume(self)
    cpdef resume_later(self)
    cpdef send(self, value)
