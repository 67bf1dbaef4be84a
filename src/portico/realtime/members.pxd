cimport cython
from portico.realtime.handlers cimport Handler
from portico.realtime cimport outgoing
from portico.realtime.emissions cimport taken_by
from portico.realtime.outgoing cimport Outgoing
from portico.realtime.runners cimport Runner, Runners
from portico.realtime.sessions cimport Session
from portico.wire cimport socketio


cdef class Here:
    cdef public object recovery, _thread
    cdef public Runners runners
    cdef public bint ending, limited, running
    cdef public int resuming

    cpdef bint is_here(self) except -1


@cython.final
cdef class Functions:
    cdef public dict handlers
    cdef public list before, before_events, streams
    cdef public object presence


cdef class Group:
    cdef public Here io
    cdef public str name
    cdef public Functions functions
    cdef public bytes _head

    cpdef Outgoing packed(self, tuple args)
    @cython.locals(handler=Handler)
    cpdef tuple wanted(self, client, list event)
    @cython.locals(functions=Functions, handler=Handler)
    cpdef Handler direct(self, name)
    cpdef failed(self, client, name, id, error)


cdef class Member:
    cdef public Group namespace
    cdef public object id, state
    cdef readonly Session session
    cdef public list _early
    cdef public object _inbox
    cdef public bint _working
    cdef public Py_ssize_t _early_bytes

    @cython.locals(early=list, session=Session)
    cpdef bint _send(self, Outgoing out) except -1
    cpdef _answer(self, id, result)
    @cython.locals(namespace=Group, io=Here, session=Session, handler=Handler, runners=Runners, connected=bint)
    cpdef _receive(self, list event, id, Py_ssize_t size)
    @cython.locals(namespace=Group, handler=Handler)
    cdef _step(self, Runner runner, list event)
    @cython.locals(runner=Runner)
    cdef bint _at_once(self, Runners runners, list event, id, Py_ssize_t size) except -1
    cpdef _begin(self)


cpdef check_name(name)
cpdef channel_of(namespace, room)
