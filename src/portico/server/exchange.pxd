cimport cython
from portico.net.stream cimport Stream as Wire
from portico.server.response cimport Response


cdef class Exchange(Response):
    cdef public Py_ssize_t held
    cdef public bint begun
    cdef public double began
    cdef object _body
    cdef bint _end_told, _continue_due, _disconnected, _given_up, _left_told
    cdef bint _logged, _ran
    cdef int _ends_told
    cdef dict _scope
    cdef object _task, _wake_body, _wake_room

    cpdef watch(self, watcher)
    cpdef bytes peek_body(self)
    cpdef start(self, spawn, app, dict scope)
    cpdef body_came(self, bytes piece)
    cpdef body_ended(self)
    cpdef broken_off(self)
    cpdef disconnected(self)
    cpdef drained(self)
    cdef dict _take_body(self)
    @cython.locals(stream=Wire)
    cdef _send(self, dict message)
    cdef _check_begun(self, kind)
    cdef _finish(self)
    cpdef refused(self, int status)
    cpdef application_ended(self, error)
    cdef _answer(self, int status, text)
