"""The authenticator for JWTs, with keys that are given, read from files, or fetched from a URL."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import structlog
import trio

from protocol import Refusal
from trioserver.auth.component import Component
from trioserver.auth.fetching import FetchError
from trioserver.auth.files import read_keys
from trioserver.auth.jwks import JWKS
from trioserver.auth.keys import Key, KeySet
from trioserver.auth.user import Credentials, User
from trioserver.auth.verify import Rules, UnknownKey, media_type, verify
from trioserver.logs.lines import may_log
from trioserver.logs.tracebacks import traceback_of
from trioserver.websocket.request import Request

Revoked: TypeAlias = Callable[[str], bool | Awaitable[bool]]

_NOT_KNOWN_YET: Final = "The token's key is not known, and the identity provider does not respond."

_log = structlog.get_logger("trioserver")


class JWTAuth(Component):
    """An `Authenticator` for JWTs, signed with HS256/384/512, RS256/384/512, PS256/384/512,
    ES256/384/512, or Ed25519 (also called EdDSA).

    Keys. There must be at least one, otherwise `ValueError` is raised:

    - ``secret``: an HMAC secret of 32 bytes or more. See `Key.secret`.
    - ``keys``: more keys. Keys of the same type are distinguished by their ``kid``.
    - ``secret_file``: a text file with one secret on each line and nothing else: no comments, no
      quotes, no ``NAME=``. `reload` reads it again. To change the secret, add the new one, sign
      with it, and remove the old one when its tokens have expired.
    - ``key_files``: files with public keys or certificates in PEM, or with a JWK set. `reload`
      reads them again.
    - ``jwks``: the provider's JWKS URL, or a `JWKS` with other intervals. `run` fetches it; the
      server runs that. `from_issuer` finds the URL by itself.

    What a token must contain:

    - ``issuer``: the accepted ``iss``, or several of them. If None, it is not checked.
    - ``audience``: the accepted ``aud``, or several, one of which must be among the token's. If
      None, only tokens without an audience are accepted (RFC 7519, section 4.1.3).
    - ``leeway``: by how many seconds clocks may differ, 0 or more.
    - ``typ``: the accepted ``typ`` of the header, such as ``"at+jwt"`` (RFC 9068), or several. If
      None, it is not checked.
    - ``claim_values``: accepted values of other claims. A claim must be one of them or contain one:
      ``{"token_use": "access", "client_id": ["web", "app"]}``. A dotted path names a nested claim.
    - ``required``: claims that must be present. Without ``exp`` among them a token may be valid
      for ever. ``user_id_claim``, and with ``revoked`` also ``revoked_claim``, are always required.
    - ``max_token_bytes``: a larger token is refused with ``token_too_big``. If None, the server's
      limit for the first message applies: `LimitsConfig.max_message_bytes_before_ready`.
    - ``user_id_claim``: the claim, a string, that is the user's id.
    - ``revoked``: a function that is called with the ``revoked_claim`` of a token that is otherwise
      valid, and returns whether it is revoked. Async, or plain and then it must not block. If it
      raises or times out, the client is refused with ``unavailable``. If None, nothing is checked.
    - ``revoked_claim``: the claim, a string, that can be revoked: ``jti`` stands for one token,
      ``sid`` for all tokens of one login.
    - ``revoked_timeout``: timeout for an async ``revoked``, in seconds, more than 0.

    Other options:

    - ``public``: claims that `ready` sends to the client. Those that JSON cannot express are left
      out.
    - ``clock``: returns the time in seconds since the Unix epoch.
    """

    def __init__(
        self,
        *,
        secret: str | bytes | None = None,
        keys: Iterable[Key] = (),
        secret_file: str | Path | None = None,
        key_files: Iterable[str | Path] = (),
        jwks: str | JWKS | None = None,
        issuer: str | Collection[str] | None = None,
        audience: str | Collection[str] | None = None,
        leeway: float = 30.0,
        typ: str | Collection[str] | None = None,
        claim_values: Mapping[str, str | Collection[str]] | None = None,
        required: Collection[str] = ("exp", "sub"),
        user_id_claim: str = "sub",
        max_token_bytes: int | None = None,
        revoked: Revoked | None = None,
        revoked_claim: str = "jti",
        revoked_timeout: float = 5.0,
        public: Collection[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        if isinstance(required, str) or isinstance(public, str):
            raise ValueError("required and public must be collections of names, not a string")
        if not (0 <= leeway < math.inf and 0 < revoked_timeout < math.inf):
            raise ValueError(
                f"leeway is {leeway!r}, revoked_timeout is {revoked_timeout!r}; "
                "leeway must be 0 or more, revoked_timeout more than 0, both finite"
            )
        if max_token_bytes is not None and max_token_bytes < 1:
            raise ValueError(f"max_token_bytes is {max_token_bytes}; it must be 1 or more, or None")
        names = dict.fromkeys((*required, user_id_claim, *((revoked_claim,) if revoked else ())))
        self._rules = Rules(
            issuer=_names("issuer", issuer),
            audience=_names("audience", audience),
            leeway=leeway,
            required=tuple(names),
            user_id_claim=user_id_claim,
            max_token_bytes=max_token_bytes,
            typ=_media_types(typ),
            claim_values={
                name: _names(f"claim_values[{name!r}]", values) or ()
                for name, values in (claim_values or {}).items()
            },
        )
        self._revoked = revoked
        self._revoked_claim = revoked_claim
        self._revoked_timeout = revoked_timeout
        self._public = tuple(public)
        self.clock = clock
        self._jwks = JWKS(jwks) if isinstance(jwks, str) else jwks
        self._secret_file = None if secret_file is None else Path(secret_file)
        self._key_files = tuple(map(Path, key_files))
        self._file_keys = read_keys(self._secret_file, self._key_files)
        self.rotate(secret=secret, keys=keys)

    @classmethod
    def from_issuer(cls, issuer: str, *, insecure_http: bool = False, **options: Any) -> JWTAuth:
        """Make an authenticator for an OpenID Connect provider from its ``issuer`` URL.

        The keys are found as in OpenID Connect Discovery 1.0, section 4: from
        ``{issuer}/.well-known/openid-configuration``, which must name the same issuer.
        ``insecure_http`` allows ``http://`` to other machines. For the other options see `JWTAuth`.
        Give an ``audience``, because a provider issues tokens for many applications.
        """
        names = (issuer.rstrip("/"), issuer.rstrip("/") + "/")
        jwks = JWKS.from_issuer(issuer, insecure_http=insecure_http)
        return cls(jwks=jwks, **{"issuer": names, **options})

    def rotate(self, *, secret: str | bytes | None = None, keys: Iterable[Key] = ()) -> None:
        """Replace ``secret`` and ``keys``, from the next token on. Keys from files and URL stay.

        To accept old tokens until they expire, also give the old key, with a ``valid_until``.
        Raises `ValueError`, and changes nothing, if no key is left or a key cannot be used.
        """
        own = KeySet([*keys, *([] if secret is None else [Key.secret(secret)])])
        if not own.keys and not self._file_keys and self._jwks is None:
            raise ValueError(
                "JWTAuth has no key to verify tokens with: set secret (`trioserver secret` makes "
                "one), keys, secret_file, key_files or jwks"
            )
        self._own_keys = own

    def reload(self) -> list[str]:
        """Read ``secret_file`` and ``key_files`` again, for the tokens that come from now on.

        Return the names of the files if anything has changed. Raises `ValueError`, and changes
        nothing, if a file cannot be used; no secret is in the message.
        """
        keys = read_keys(self._secret_file, self._key_files)
        if keys == self._file_keys:
            return []
        self._file_keys = keys
        files = [*self._key_files, *([self._secret_file] if self._secret_file else [])]
        return [str(file) for file in files]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fetch the JWKS until cancelled (see `JWKS.run`); without one, return at once."""
        if self._jwks is not None:
            await self._jwks.run(task_status=task_status)
        else:
            await trio.lowlevel.checkpoint()
            task_status.started()

    async def __call__(self, credentials: Credentials, request: Request) -> User:
        """Return the token's user. Raises `Refusal` for a token that is not valid.

        Waits only for a fetch of an unknown key and for ``revoked``, each with a deadline.
        """
        # Other tasks run during the authorization. One more checkpoint costs in a storm.
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            user = self.check(credentials.token)
        except UnknownKey:
            if self._jwks is None:
                raise
            user = await self._check_with_newer_keys(credentials.token, self._jwks)
        revoked = self._revoked
        if revoked is not None:
            value = user.claims[self._revoked_claim]
            if not isinstance(value, str):
                raise Refusal(
                    "token_invalid", f"The token's {self._revoked_claim} claim is not a string."
                )
            if await self._is_revoked(revoked, value, request.remote):
                raise Refusal("token_revoked")
        return user

    async def check_health(self) -> None:
        """Raise `FetchError` until the provider's keys have been fetched once."""
        await trio.lowlevel.checkpoint()
        if self._jwks is not None and not self._jwks.keys.keys:
            raise FetchError("No keys have been fetched from the identity provider yet.")

    async def _check_with_newer_keys(self, token: object, jwks: JWKS) -> User:
        """Fetch keys and check again. Raises `UnknownKey`.

        Its code is ``token_invalid`` only if a fetch that began after the token came has not found
        the key; it is ``unavailable`` while that is not known.
        """
        since = trio.current_time()
        with trio.move_on_after(jwks.timeout):
            for _ in range(2):  # the first may have been under way before the key was published
                is_known = await jwks.refresh(since)
                try:
                    return self.check(token)
                except UnknownKey:
                    if is_known or jwks.failing:
                        raise
        raise UnknownKey("unavailable", _NOT_KNOWN_YET)

    def check(self, token: object) -> User:
        """Return the token's user, with the keys at hand and without calling ``revoked``.

        Raises as `__call__`.
        """
        keys = self._own_keys
        if self._file_keys or self._jwks is not None:
            fetched = () if self._jwks is None else self._jwks.keys.keys
            keys = KeySet(keys.keys + self._file_keys + fetched)
        try:
            claims = verify(token, keys, self._rules, self.clock())
        except UnknownKey:
            if self._jwks is None or not self._jwks.failing:
                raise
            raise UnknownKey("unavailable", _NOT_KNOWN_YET) from None
        return User(
            id=claims[self._rules.user_id_claim],
            claims=claims,
            expires_at=self._end_of(claims),
            token_id=claims.get("jti"),
            public={name: claims[name] for name in self._public if _can_be_sent(claims, name)},
        )

    def _end_of(self, claims: Mapping[str, Any]) -> float | None:
        """Return ``exp``, or the end of the leeway for a token that only the leeway admits.

        Otherwise such a client would be closed as soon as it is admitted.
        """
        if "exp" not in claims:
            return None
        exp = float(claims["exp"])
        return exp if exp > self.clock() else exp + self._rules.leeway

    async def _is_revoked(self, revoked: Revoked, token_id: str, remote: str) -> bool:
        try:
            answer = revoked(token_id)
            if inspect.isawaitable(answer):
                with trio.fail_after(self._revoked_timeout):
                    answer = await answer
        except Refusal:
            raise
        except Exception as error:  # the application's; without an answer the client is refused
            if may_log("revocation_check_failed", remote, traceback=True):
                _log.error("revocation_check_failed", traceback=traceback_of(error))
            raise Refusal("unavailable") from None
        return bool(answer)


def _media_types(typ: str | Collection[str] | None) -> tuple[str, ...] | None:
    names = _names("typ", typ)
    return names and tuple(map(media_type, names))


def _names(option: str, value: str | Collection[str] | None) -> tuple[str, ...] | None:
    names = (value,) if isinstance(value, str) else value
    if names is not None and not (names and all(names)):
        raise ValueError(f"{option} is empty; leave it out, or give at least one value")
    return None if names is None else tuple(names)


def _can_be_sent(claims: Mapping[str, Any], name: str) -> bool:
    """Whether JSON can express the claim: half of a surrogate pair must not prevent `ready`."""
    try:
        msgspec.json.encode(claims[name])
    except (KeyError, ValueError, RecursionError):
        return False
    return True
