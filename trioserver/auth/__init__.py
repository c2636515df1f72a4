"""Authentication and authorization: who a client is, and what the client may use."""

from trioserver.auth.certificate import ClientCertificateAuth
from trioserver.auth.component import Component
from trioserver.auth.fetching import FetchError
from trioserver.auth.hmac_secrets import WeakSecretError, make_secret
from trioserver.auth.inspect import Inspection, inspect_token
from trioserver.auth.jwks import JWKS
from trioserver.auth.jwt import JWTAuth
from trioserver.auth.keys import Key, KeySet
from trioserver.auth.sql_authorizer import SQLAuthorizer
from trioserver.auth.tokens import make_token
from trioserver.auth.user import Authenticator, Authorizer, Credentials, User, id_if_given, id_of
from trioserver.auth.user_id import TrustedUserId

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
