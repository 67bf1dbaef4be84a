cimport cython
from portico.net._steps cimport first_step, references
from portico.net.reactor cimport Reactor
from portico.net.stepping cimport Stepped


@cython.final
cdef class Runner(Stepped):
    cdef readonly object task, begun
    cdef Runners _runners
    cdef object _name, _own, _pristine, _what
    cdef Py_ssize_t _references
    cdef bint _over

    cpdef step(self, function, list args)
    cpdef go_on(self, client, name, id, Py_ssize_t size)
    cpdef end(self)
    cpdef end_later(self)
    cpdef bint is_unchanged(self) except -1


@cython.final
cdef class Runners:
    cdef readonly Reactor reactor
    cdef public list idle
    cdef public bint coming, stopped
    cdef object _loop, _spawn
    cdef set _tasks
    cdef int _credit, _missed

    @cython.locals(runner=Runner, reactor=Reactor)
    cpdef Runner enter(self)
    @cython.locals(unchanged=bint)
    cpdef leave(self, Runner runner)
    cpdef lost(self, error)
    cdef _miss(self)
    cpdef forget(self, task)
