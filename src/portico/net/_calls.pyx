# cython: language_level=3
"""The compiled twin of portico.net.calls: the system calls themselves."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno

cdef extern from "<sys/socket.h>" nogil:
    Py_ssize_t c_recv "recv" (int fd, void* data, size_t size, int flags)
    Py_ssize_t c_send "send" (int fd, const void* data, size_t size, int flags)
    int MSG_DONTWAIT

cdef extern from "Python.h":
    object PyErr_SetFromErrno(object kind)


cdef Py_ssize_t _result(Py_ssize_t size, Py_ssize_t nothing) except -2:
    if size < 0:
        if errno != EAGAIN and errno != EINTR:
            PyErr_SetFromErrno(OSError)
        return nothing
    return size


cpdef Py_ssize_t receive(sock, int fd, bytearray buffer) except -2:
    return _result(c_recv(fd, PyByteArray_AS_STRING(buffer), PyByteArray_GET_SIZE(buffer), MSG_DONTWAIT), -1)


cdef unsigned int _sent = 0


cdef Py_ssize_t _send(int fd, const void* data, Py_ssize_t size) noexcept:
    global _sent
    cdef Py_ssize_t result
    _sent += 1
    if _sent & 63:
        return c_send(fd, data, size, MSG_DONTWAIT)
    with nogil:
        result = c_send(fd, data, size, MSG_DONTWAIT)
    return result


cpdef Py_ssize_t send(sock, int fd, data) except -2:
    cdef Py_buffer view
    cdef Py_ssize_t sent
    if isinstance(data, bytes):
        return _result(_send(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)), 0)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    sent = _send(fd, view.buf, view.len)
    try:
        return _result(sent, 0)
    finally:
        PyBuffer_Release(&view)
