cimport cython
from portico.net.stream cimport Protocol, Stream
from portico.wire.messages cimport Messages


@cython.final
cdef class Settings:
    cdef readonly object limits, counters
    cdef readonly Py_ssize_t max_outbox, max_unread
    cdef readonly double assembly_timeout, close_timeout, ping_interval, ping_timeout


@cython.final
cdef class Finished:
    pass


@cython.final
cdef class Inbox:
    cdef public object _asyncio_future_blocking
    cdef readonly Py_ssize_t cost
    cdef public bint iterating, reading_on
    cdef public object task
    cdef WebSocket _ws
    cdef object _queue, _callback, _context

    cpdef put(self, message)
    cpdef wake(self)
    cpdef send(self, value)


cdef class WebSocket(Protocol):
    cdef object __weakref__
    cdef readonly Stream stream
    cdef readonly Messages wire
    cdef readonly Settings settings
    cdef readonly object endpoint
    cdef readonly Inbox inbox
    cdef readonly object request, subprotocol
    cdef public object user, state, rooms
    cdef readonly object closed, latency
    cdef unsigned int _number, _ping_id, _keepalive_id
    cdef unsigned char _told
    cdef readonly unsigned char sending
    cdef object _our_close, _drain, _end, _pings, _pong_due
    cdef double _ping_sent, _next_ping, _due

    cpdef begin(self, bytes tail=*)
    @cython.locals(stream=Stream)
    cpdef write(self, message)
    @cython.locals(stream=Stream)
    cpdef send(self, message)
    cpdef drained(self)
    cpdef too_slow(self)
    cdef bytes _next_ping_payload(self)
    cpdef recv(self)
    cpdef received(self, bytearray data, Py_ssize_t size)
    cdef _dispatch_rest(self)
    cdef bint _full(self)
    cpdef _read_on(self)
    cdef _read_on_soon(self)
    @cython.locals(inbox=Inbox, completed=bint)
    cdef _dispatch(self, list events)
    cdef _control(self, event)
    cdef _let_answer(self)
    cdef _pong(self, bytes payload)
    cdef _late_pong(self, bytes payload)
    cdef _ponged(self, bytes payload)
    cdef _pause(self)
    @cython.locals(stream=Stream)
    cpdef _taken(self, Py_ssize_t cost)
    @cython.locals(stream=Stream)
    cdef _assembly_deadline(self, bint completed)
    @cython.locals(stream=Stream)
    cpdef expired(self, double now)
    cdef _keepalive(self, double now)
    @cython.locals(due=double)
    cdef _reschedule(self, double now)
    cdef _closing(self, event)
    cpdef eof(self)
    cpdef failed(self, error)
    cpdef lost(self, cause)
    cdef _settle(self, close)
    cdef _clean_up(self)
    cpdef callback_failed(self, error)
    cdef _why(self)
