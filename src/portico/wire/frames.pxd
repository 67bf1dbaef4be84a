cimport cython
from portico.wire._masking cimport apply_mask

cdef object _pack_16, _pack_64, _pack_masked, _pack_masked_16, _pack_masked_64


@cython.locals(size=Py_ssize_t)
cpdef bytes encode_frame(int first, bytes payload)
@cython.locals(size=Py_ssize_t, masked=bytes)
cpdef bytes encode_masked_frame(int first, bytes payload, unsigned int key)
@cython.locals(text=bytes)
cpdef bytes close_payload(code, reason=*)
@cython.locals(code=int)
cpdef tuple parse_close(bytes payload)
