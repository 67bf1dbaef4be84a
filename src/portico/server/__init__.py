"""One port: connections that begin as HTTP/1.1 and may become WebSockets; the host of ASGI applications."""
