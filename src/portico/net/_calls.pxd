cpdef Py_ssize_t receive(sock, int fd, bytearray buffer) except -2
cpdef Py_ssize_t send(sock, int fd, data) except -2
