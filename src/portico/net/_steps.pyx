# cython: language_level=3
"""The compiled twin of portico.net.steps: a coroutine's first step, by the C API of coroutines and contexts."""

from types import CoroutineType

from cpython.object cimport PyObject


cdef extern from "Python.h":
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    int PyIter_Send(object coroutine, object value, PyObject** result) except -1
    object PyObject_CallObject(object function, object args)
    void Py_DECREF(PyObject* object)
    Py_ssize_t Py_REFCNT(object value)


cdef tuple NOTHING = (None, None)


async def _awaited(awaitable):
    return await awaitable


cpdef tuple first_step(context, function, list args):
    cdef PyObject* result = NULL
    cdef int more
    PyContext_Enter(context)
    try:
        coroutine = PyObject_CallObject(function, tuple(args))
        if type(coroutine) is not CoroutineType:
            coroutine = _awaited(coroutine)
        more = PyIter_Send(coroutine, None, &result)
    finally:
        PyContext_Exit(context)
    value = <object> result
    Py_DECREF(result)
    if more:
        return coroutine, value
    return NOTHING if value is None else (None, value)


cpdef Py_ssize_t references(value):
    return Py_REFCNT(value)
