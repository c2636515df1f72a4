"""The authenticator for JWTs: keys from the configuration, from a JWKS URL, or from both."""

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

_NOT_KNOWN_YET: Final = "The token's key is not known, and its provider cannot be asked now."

_log = structlog.get_logger("trioserver")


class JWTAuth(Component):
    """An `Authenticator` for JWTs, signed with HS256/384/512, RS256/384/512, PS256/384/512,
    ES256/384/512, or Ed25519 (also called EdDSA).

    Keys, of which there must be some, else `ValueError`:

    - ``secret``: an HMAC secret of 32 bytes or more, see `Key.secret`; None is none.
    - ``keys``: more keys. Several for one purpose are told apart by their ``kid``.
    - ``secret_file``: a text file of such secrets, one a line, and nothing else: no comments, no
      quotes, no ``NAME=``. `reload` reads it again. To change the secret, add the new one, sign
      with it, and remove the old one when its tokens have ended.
    - ``key_files``: files with public keys or certificates in PEM, or a JWK set; `reload` likewise.
    - ``jwks``: the provider's JWKS URL, or a `JWKS` for other intervals; None is none. The server
      has to run `run`, which fetches. `from_issuer` finds the URL by itself.

    What a token has to say:

    - ``issuer``: the ``iss``, or several to choose from; None does not look at it.
    - ``audience``: the ``aud``, or several of which one has to be among the token's; None takes
      only tokens without an audience (RFC 7519, section 4.1.3).
    - ``leeway``: by how many seconds clocks may differ, 0 or more.
    - ``typ``: the header's ``typ``, or several to choose from, such as ``"at+jwt"`` (RFC 9068);
      None does not look at it.
    - ``claim_values``: what further claims have to be, or to hold one of:
      ``{"token_use": "access", "client_id": ["web", "app"]}``. A path with dots names a nested one.
    - ``required``: claims that have to be there. Without ``exp`` among them a token may be good
      for ever. ``user_id_claim``, and ``revoked_claim`` where there is ``revoked``, are required
      anyway.
    - ``max_token_bytes``: a larger token is ``token_too_big``. None leaves it to the server, which
      takes what fits into the first message: `LimitsConfig.max_message_bytes_before_ready`.
    - ``user_id_claim``: the claim, a string, that is the user's id.
    - ``revoked``: asked with the ``revoked_claim`` of a token that is good otherwise; plain, then
      it must not block, or async. None asks nobody. An error, and no answer in time, is
      ``unavailable``.
    - ``revoked_claim``: the claim, a string, that is revoked: ``jti`` is one token, ``sid`` is all
      of one login.
    - ``revoked_timeout``: for how many seconds an async ``revoked`` is waited for, more than 0.

    And:

    - ``public``: claims that `ready` tells the client; what JSON cannot carry is left out.
    - ``clock``: the time now, in seconds since the Unix epoch.
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
            raise ValueError("required and public are collections of names, not one string.")
        if not (0 <= leeway < math.inf and 0 < revoked_timeout < math.inf):
            raise ValueError(
                "leeway is 0 seconds or more, revoked_timeout more than 0, both finite."
            )
        if max_token_bytes is not None and max_token_bytes < 1:
            raise ValueError(
                f"max_token_bytes is {max_token_bytes}; it must be 1 or more, or None."
            )
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
        """An authenticator for an OpenID Connect provider, known by its ``issuer`` URL alone.

        Its keys are found as OpenID Connect Discovery 1.0 says, section 4: from
        ``{issuer}/.well-known/openid-configuration``, which has to name the same issuer.
        ``insecure_http`` allows ``http://`` to other machines than this one. Everything else is
        as in `JWTAuth`; give an ``audience``, since a provider has tokens for many.
        """
        names = (issuer.rstrip("/"), issuer.rstrip("/") + "/")
        jwks = JWKS.from_issuer(issuer, insecure_http=insecure_http)
        return cls(jwks=jwks, **{"issuer": names, **options})

    def rotate(self, *, secret: str | bytes | None = None, keys: Iterable[Key] = ()) -> None:
        """Replaces ``secret`` and ``keys``, from the next token on; keys from files and URL stay.

        Raises `ValueError`, and changes nothing, where no key is left or one cannot be used. To
        let old tokens run out, give the old key as well, with a ``valid_until``.
        """
        own = KeySet([*keys, *([] if secret is None else [Key.secret(secret)])])
        if not own.keys and not self._file_keys and self._jwks is None:
            raise ValueError(
                "JWTAuth has nothing to verify tokens with: set secret (`trioserver secret` makes "
                "one), keys, secret_file, key_files or jwks."
            )
        self._own_keys = own

    def reload(self) -> list[str]:
        """Reads ``secret_file`` and ``key_files`` again, for the tokens that come from now on.

        Returns these files where anything has changed. Raises `ValueError`, and changes nothing,
        where one cannot be used; no secret is in its message.
        """
        keys = read_keys(self._secret_file, self._key_files)
        if keys == self._file_keys:
            return []
        self._file_keys = keys
        files = [*self._key_files, *([self._secret_file] if self._secret_file else [])]
        return [str(file) for file in files]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fetches the JWKS until cancelled, see `JWKS.run`; without one it ends at once."""
        if self._jwks is not None:
            await self._jwks.run(task_status=task_status)
        else:
            await trio.lowlevel.checkpoint()
            task_status.started()

    async def __call__(self, credentials: Credentials, request: Request) -> User:
        """The token's user. Raises `Refusal` for any other token, and nothing else.

        Waits only for a fetch of an unknown key and for ``revoked``, each with a deadline.
        """
        # Others have their turn when the owner is looked up; one more would be felt in a storm.
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
                raise Refusal("token_invalid", f"The {self._revoked_claim} claim is not a string.")
            if await self._is_revoked(revoked, value, request.remote):
                raise Refusal("token_revoked")
        return user

    async def check_health(self) -> None:
        """Raise `FetchError` until the provider's keys have been fetched once."""
        await trio.lowlevel.checkpoint()
        if self._jwks is not None and not self._jwks.keys.keys:
            raise FetchError("No keys have been fetched from the identity provider yet.")

    async def _check_with_newer_keys(self, token: object, jwks: JWKS) -> User:
        """Raises `UnknownKey`: ``token_invalid`` only where a fetch that began after the token came
        has not found its key, and ``unavailable`` while nobody can say."""
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
        """As calling it does, with the keys at hand and without asking ``revoked``."""
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
            public={name: claims[name] for name in self._public if _is_tellable(claims, name)},
        )

    def _end_of(self, claims: Mapping[str, Any]) -> float | None:
        """``exp``; for a token that only the leeway lets in, the end of the leeway: who is let in
        is not thrown out the same moment."""
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
        except Exception as error:  # of the application; not knowing admits nobody
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
        raise ValueError(f"{option} is empty: leave it out, or name one.")
    return None if names is None else tuple(names)


def _is_tellable(claims: Mapping[str, Any], name: str) -> bool:
    """Half of a surrogate pair in a name, cut off by some JavaScript, must not cost `ready`."""
    try:
        msgspec.json.encode(claims[name])
    except (KeyError, ValueError, RecursionError):
        return False
    return True
