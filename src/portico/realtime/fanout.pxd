cimport cython
from portico.net.stream cimport Stream
from portico.websocket.websocket cimport WebSocket


@cython.locals(ws=WebSocket, stream=Stream, small=Py_ssize_t, taken=Py_ssize_t, keyed=bint)
cpdef Py_ssize_t fan_out(out, list clients, bint volatile) except -1
