"""HTTP on the port of the WebSockets: built-in routes, and ASGI applications that are mounted.

h11 parses requests and encodes responses. Modules that need the extra ``http`` are imported by
`trioserver.http.service` and below it.
"""

from typing import Final

NEEDS: Final = "HTTP needs Starlette: pip install 'trioserver[http]'"
"""The error where the extra is needed and not installed."""
