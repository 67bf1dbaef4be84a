cpdef tuple first_step(context, function, list args)
cpdef Py_ssize_t references(value)
