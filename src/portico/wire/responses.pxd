cpdef bytes status_line(int status)
