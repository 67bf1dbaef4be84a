cimport cython
from portico.net.stream cimport Stream
from portico.websocket.endpoint cimport Settings
from portico.websocket.inbox cimport Inbox, Owner
from portico.wire.messages cimport Messages


cdef class Driver(Owner):
    cdef object __weakref__
    cdef readonly Messages wire
    cdef readonly Settings settings
    cdef readonly object endpoint
    cdef readonly Inbox inbox
    cdef readonly object request, subprotocol
    cdef public object user, state, rooms
    cdef readonly object latency
    cdef unsigned int _number, _ping_id, _keepalive_id
    cdef unsigned char _told, _reading_on
    cdef readonly unsigned char sending
    cdef object _our_close, _drain, _end, _pings, _pong_due
    cdef double _ping_sent, _next_ping, _due

    cpdef begin(self, bytes tail=*)
    cpdef received(self, bytearray data, Py_ssize_t size)
    @cython.locals(stream=Stream, parts=int)
    cdef _dispatch_rest(self)
    cpdef resumed(self)
    cdef bint _full(self)
    @cython.locals(stream=Stream)
    cpdef _read_on(self, bytes tail=*)
    @cython.locals(due=bint)
    cdef _read_on_soon(self)
    @cython.locals(inbox=Inbox, completed=bint)
    cdef _dispatch(self, list events)
    cdef _control(self, event)
    cdef _let_answer(self)
    cdef _pong(self, bytes payload)
    cdef _late_pong(self, bytes payload)
    cdef _ponged(self, bytes payload)
    cdef bytes _next_ping_payload(self)
    cdef _pause(self)
    @cython.locals(stream=Stream)
    cpdef taken(self, Py_ssize_t cost)
    @cython.locals(stream=Stream)
    cdef _assembly_deadline(self, bint completed)
    @cython.locals(stream=Stream)
    cpdef expired(self, double now)
    cdef _keepalive(self, double now)
    @cython.locals(due=double)
    cdef _reschedule(self, double now)
    cdef _closing(self, event)
    cpdef broken(self)
    cpdef eof(self)
    cpdef failed(self, error)
    cpdef lost(self, cause)
    cdef _settle(self, close)
    cdef _clean_up(self)
    cpdef callback_failed(self, error)
    cdef _why(self)
