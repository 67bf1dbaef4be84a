cimport cython
from libc.stdint cimport int64_t
from portico.net.reactor cimport Reactor
from portico.net.stream cimport Protocol, Stream as Wire
from portico.server.exchange cimport Exchange as OneExchange
from portico.server.host cimport Host
from portico.wire.framing cimport RequestHead as Head
from portico.wire.http1 cimport RequestParser as Parser


cdef class HttpConnection(Protocol):
    cdef readonly Host server
    cdef readonly Wire stream
    cdef readonly bint crowded
    cdef Parser _parser
    cdef bytes _waiting
    cdef object _exchanges, _last, _switch
    cdef int _phase
    cdef bint _pumping, _reading
    cdef int64_t _came, _went
    cdef object _taken
    cdef int _spare
    cdef dict _scope
    cdef object _spawn, _spawn_apart

    @cython.locals(piece=bytes)
    cpdef received(self, bytearray data, Py_ssize_t size)
    @cython.locals(parser=Parser)
    cpdef _pump(self)
    @cython.locals(waiting=bytes, at=Py_ssize_t, step=Py_ssize_t)
    cdef _parse(self, Parser parser)
    @cython.locals(exchange=OneExchange, stream=Wire)
    cdef bint _advance(self) except -1
    @cython.locals(exchange=OneExchange, held=Py_ssize_t, server=Host)
    cdef bint _full(self) except -1
    @cython.locals(exchange=OneExchange)
    cdef _take(self, list events)
    @cython.locals(stream=Wire, exchange=OneExchange)
    cdef _watch(self, Parser parser)
    cdef _expect(self, double seconds)
    @cython.locals(reactor=Reactor)
    cdef double _now(self) except? -1
    cdef bint _may_parse(self) except -1
    cdef _begin_last(self)
    cdef _wait_idle(self)
    cpdef watch_progress(self)
    cdef _check_progress(self)
    cpdef exchange_over(self)
    cpdef body_taken(self)
    @cython.locals(head=Head, scope=dict)
    cdef _answer(self, OneExchange exchange)
    @cython.locals(scope=dict, server=Host)
    cdef dict _http_scope(self, Head head, root, app)
    cpdef stop(self)
