"""Authentication and authorization: who a client is, and what the client may use.

`SQLAuthorizer` is imported on use, because a command that makes a token needs no database.
"""

from typing import TYPE_CHECKING, Any

from trioserver.auth.certificate import ClientCertificateAuth
from trioserver.auth.component import Component
from trioserver.auth.fetching import FetchError
from trioserver.auth.hmac_secrets import WeakSecretError, make_secret
from trioserver.auth.inspect import Inspection, inspect_token
from trioserver.auth.jwks import JWKS
from trioserver.auth.jwt import JWTAuth
from trioserver.auth.keys import Key, KeySet
from trioserver.auth.tokens import make_token
from trioserver.auth.user import Authenticator, Authorizer, Credentials, User, id_if_given, id_of
from trioserver.auth.user_id import TrustedUserId

if TYPE_CHECKING:
    from trioserver.auth.sql_authorizer import SQLAuthorizer

__all__ = [
    "JWKS",
    "Authenticator",
    "Authorizer",
    "ClientCertificateAuth",
    "Component",
    "Credentials",
    "FetchError",
    "Inspection",
    "JWTAuth",
    "Key",
    "KeySet",
    "SQLAuthorizer",
    "TrustedUserId",
    "User",
    "WeakSecretError",
    "id_if_given",
    "id_of",
    "inspect_token",
    "make_secret",
    "make_token",
]

if not TYPE_CHECKING:  # otherwise mypy accepts every name

    def __getattr__(name: str) -> Any:
        if name != "SQLAuthorizer":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from trioserver.auth import sql_authorizer

        value = globals()[name] = sql_authorizer.SQLAuthorizer
        return value
