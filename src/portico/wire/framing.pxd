cimport cython


@cython.final
cdef class RequestHead:
    cdef public str method, path, version
    cdef public bytes target, raw_path, query, raw
    cdef public list headers
    cdef public bint keep_alive, expect_continue, chunked, upgrade, websocket_hint
    cdef public object content_length


cpdef RequestHead scanned_head(tuple scanned, bytes raw)
