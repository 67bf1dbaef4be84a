cpdef bytes apply_mask(object data, Py_ssize_t start, Py_ssize_t end, unsigned int key, unsigned int phase)
