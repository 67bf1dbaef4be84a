cimport cython
from portico.net.reactor cimport Reactor
from portico.net.stepping cimport Stepped


@cython.final
cdef class Runner(Stepped):
    cdef public object client, task
    cdef Runners _runners
    cdef list _event
    cdef object _id
    cdef Py_ssize_t _held

    cpdef step(self, client, list event, id)
    cpdef hold(self, Py_ssize_t size)


@cython.final
cdef class Runners:
    cdef readonly Reactor reactor
    cdef public list idle
    cdef public bint coming, stopped
    cdef object _spawn
    cdef set _tasks
    cdef int _credit, _missed

    @cython.locals(runner=Runner, reactor=Reactor)
    cpdef bint begin(self, client, list event, id, Py_ssize_t size) except -1
    cdef _miss(self)
    cpdef forget(self, task)
