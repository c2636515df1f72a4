"""HTTP on the port of the WebSockets: built-in routes, and ASGI applications that are mounted.

Hypercorn speaks HTTP/1.1 and ASGI; heads, bodies' ends, deadlines and bounds are ours. Everything
that needs the extra ``http`` is imported by `trioserver.http.service` and from there.
"""
