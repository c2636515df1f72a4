"""The administration over HTTP: an ASGI application for `/api/v1/admin`."""

from trioserver.http.admin.app import admin_app

__all__ = ["admin_app"]
