cpdef tuple scan_request(bytes data, Py_ssize_t pos, Py_ssize_t max_bytes, Py_ssize_t max_headers)
cpdef tuple pack_fields(list lines)
