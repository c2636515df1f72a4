"""Keys for the verification of tokens.

The type of a key determines its algorithms (RFC 8725, section 3.1), not the token. So a token
cannot ask for ``none``, or for an HMAC with a public key as the secret.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import attrs
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import HMACAlgorithm, OKPAlgorithm

from trioserver.auth.hmac_secrets import HMAC_MIN_BYTES, WeakSecretError, check_secret
from trioserver.auth.pem import public_keys_of

Material: TypeAlias = bytes | RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

_RSA_MIN_BITS: Final = 2048
"""RFC 7518, section 3.3."""

_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
"""RFC 7518, section 3.4: each curve has one algorithm. The names are those of cryptography."""

_ED25519: Final = ("EdDSA", "Ed25519")
"""RFC 8037, and RFC 9864, which gave the same signatures a name of their own."""

PUBLIC_KEY_ALGORITHMS: Final = (*_RSA, *_CURVES.values(), *_ED25519)
"""The algorithms of keys that a provider publishes."""

ALGORITHMS: Final = (*HMAC_MIN_BYTES, *PUBLIC_KEY_ALGORITHMS)
"""All supported algorithms. Not a set, because a token's header may hold an unhashable value."""

_KEY_TYPES: Final = ("RSA", "EC", "OKP", "oct")
"""The ``kty`` of a JWK (RFC 7518, section 6.1; RFC 8037)."""


def _algorithms_of(material: Material) -> tuple[str, ...]:
    if isinstance(material, bytes):
        check_secret(material)
        return tuple(name for name, least in HMAC_MIN_BYTES.items() if len(material) >= least)
    if isinstance(material, RSAPublicKey):
        if material.key_size < _RSA_MIN_BITS:
            raise ValueError(f"an RSA key must have {_RSA_MIN_BITS} bits or more")
        return _RSA
    if isinstance(material, EllipticCurvePublicKey) and material.curve.name in _CURVES:
        return (_CURVES[material.curve.name],)
    if isinstance(material, Ed25519PublicKey):
        return _ED25519
    raise ValueError(
        "tokens are verified with an HMAC secret or a public key: RSA, EC (P-256, P-384, P-521) "
        f"or Ed25519; a {type(material).__name__} of another kind cannot be used"
    )


class _Checked(HMACAlgorithm):
    """HMAC for a secret that was checked when the `Key` was made.

    PyJWT would try to parse it as a key or certificate for each token, which takes a third of the
    time of a verification.
    """

    def prepare_key(self, key: str | bytes) -> bytes:
        """The secret as it is."""
        assert isinstance(key, bytes)
        return key


def _verifiers(material: Material, algorithms: tuple[str, ...]) -> dict[str, Any]:
    """Return what PyJWT verifies with, by algorithm."""
    if isinstance(material, Ed25519PublicKey):
        return {name: _ed25519_verifier(material, name) for name in algorithms}
    if not isinstance(material, bytes):
        return dict.fromkeys(algorithms, material)
    secret = {"kty": "oct", "k": base64.urlsafe_b64encode(material).rstrip(b"=").decode()}
    verifiers = {name: jwt.PyJWK(secret, name) for name in algorithms}
    for name, verifier in verifiers.items():
        verifier.Algorithm = _Checked(getattr(HMACAlgorithm, f"SHA{name[2:]}"))
    return verifiers


def _ed25519_verifier(material: Ed25519PublicKey, algorithm: str) -> jwt.PyJWK:
    """Make a verifier for either name: PyJWT knows these signatures by the older one only."""
    verifier = jwt.PyJWK(OKPAlgorithm.to_jwk(material, as_dict=True), "EdDSA")
    verifier.algorithm_name = algorithm
    return verifier


@attrs.frozen(kw_only=True)
class Key:
    """A verification key. Make one with `secret`, `from_pem` or `from_jwk`.

    - ``kid``: the key's id, or None.
    - ``algorithm``: the only algorithm that the key is for. If None, ``algorithms`` are all that
      the type of the ``material`` has.
    - ``valid_until``: when the key expires, in seconds since the Unix epoch. None means never.

    Raises `WeakSecretError` or another `ValueError` for a key that cannot be used.
    """

    kid: str | None = None
    material: Material = attrs.field(repr=False)
    algorithm: str | None = None
    algorithms: tuple[str, ...] = attrs.field(init=False)
    valid_until: float | None = None
    _verifiers: dict[str, Any] = attrs.field(init=False, repr=False, eq=False)

    @_verifiers.default
    def _made_once(self) -> dict[str, Any]:
        return _verifiers(self.material, self.algorithms)

    def verifier(self, algorithm: str) -> Any:
        """Return what `jwt.decode` takes as a key for one of the ``algorithms``."""
        return self._verifiers[algorithm]

    @algorithms.default
    def _fixed_by_the_type(self) -> tuple[str, ...]:
        able = _algorithms_of(self.material)
        if self.algorithm is None or self.algorithm in _ED25519 == able:
            return able
        if self.algorithm not in able:
            raise ValueError(
                f"algorithm {self.algorithm!r} does not fit this key: use {', '.join(able)}"
            )
        return (self.algorithm,)

    @classmethod
    def secret(
        cls, secret: str | bytes | None, *, kid: str | None = None, valid_until: float | None = None
    ) -> Key:
        """Make a key from an HMAC secret. Text is encoded in UTF-8.

        It is for HS256, from 48 bytes on also for HS384, and from 64 bytes on also for HS512.
        Raises `WeakSecretError`, also for None, which stands for a missing secret.
        """
        if secret is None:
            raise WeakSecretError("is missing")
        try:
            material = secret.encode() if isinstance(secret, str) else bytes(secret)
        except UnicodeEncodeError:  # it would carry the text along
            raise WeakSecretError("is not Unicode text") from None
        return cls(material=material, kid=kid, valid_until=valid_until)

    @classmethod
    def from_pem(
        cls, pem: str | bytes, *, kid: str | None = None, valid_until: float | None = None
    ) -> Key:
        """Make a key from a public key or certificate in PEM: RSA, EC (P-256 to P-521) or Ed25519.

        Line breaks may be real or spelt ``\\n``, as in an environment variable. The dates of a
        certificate are not checked. For several keys in one text use `all_from_pem`.
        """
        first, *others = cls.all_from_pem(pem)
        if others:
            raise ValueError("the text has more than one key; `Key.all_from_pem` reads them all")
        return attrs.evolve(first, kid=kid, valid_until=valid_until)

    @classmethod
    def all_from_pem(cls, pem: str | bytes) -> list[Key]:
        """Make a key from each public key and certificate in a text. See `from_pem`."""
        text = pem if isinstance(pem, str) else pem.decode("ascii", "replace")
        return [cls(material=public) for public in public_keys_of(text)]  # type: ignore[arg-type]

    @classmethod
    def from_jwk(
        cls, jwk: Mapping[str, Any], *, kid: str | None = None, valid_until: float | None = None
    ) -> Key:
        """Make a key from a JWK (RFC 7517, section 4) of a public key or, with ``kty`` "oct", a
        secret.

        If ``kid`` is None, the JWK's own is used. A JWK with ``alg`` is for that algorithm only. An
        RSA key may be given by a certificate in ``x5c``. Raises `ValueError` for a JWK that is for
        encryption or for an algorithm that is not supported.
        """
        kty, operations = jwk.get("kty"), jwk.get("key_ops")
        if not isinstance(kty, str) or kty not in _KEY_TYPES:
            raise ValueError("the JWK's kty must be RSA, EC, OKP or oct")
        if jwk.get("use") not in (None, "sig") or (
            isinstance(operations, list) and "verify" not in operations
        ):
            raise ValueError("the JWK is not for signatures")
        kid = jwk.get("kid") if kid is None else kid
        if not isinstance(kid, str | None):
            raise ValueError("the JWK's kid is not a string")
        algorithm = jwk.get("alg")
        if algorithm is not None and algorithm not in ALGORITHMS:
            raise ValueError(f"the JWK's alg must be one of {', '.join(ALGORITHMS)}")
        material = _material_of(jwk)
        return cls(material=material, algorithm=algorithm, kid=kid, valid_until=valid_until)


def _material_of(jwk: Mapping[str, Any]) -> Material:
    try:
        if jwk["kty"] == "RSA" and "n" not in jwk and "x5c" in jwk:
            pem = f"-----BEGIN CERTIFICATE-----{jwk['x5c'][0]}-----END CERTIFICATE-----"
            return public_keys_of(pem)[0]  # type: ignore[return-value]
        bare = {name: value for name, value in jwk.items() if name != "alg"}
        material: Material = jwt.PyJWK(bare).key
    except Exception:  # of many kinds, and some quote the key
        raise ValueError("the JWK is malformed") from None
    return material


def _only_keys(keys: Iterable[Key]) -> tuple[Key, ...]:
    keys = tuple(keys)
    if not all(isinstance(key, Key) for key in keys):
        raise ValueError(
            "keys must be `Key` objects: make them with `Key.secret`, `Key.from_pem` or "
            "`Key.from_jwk`"
        )
    return keys


@attrs.frozen
class KeySet:
    """An immutable set of keys."""

    keys: tuple[Key, ...] = attrs.field(default=(), converter=_only_keys)

    def names(self, kid: str) -> bool:
        """Whether there is a key with this id, even one past its ``valid_until``."""
        return any(key.kid == kid for key in self.keys)

    def candidates(self, kid: str | None, algorithm: str, now: float) -> list[Key]:
        """Return the keys to try, in turn, on a token with these headers; ``now`` in Unix seconds.

        These are the keys with that id, or else the keys without an id. For a token without ``kid``
        they are all keys: an id only helps to find the key (RFC 7515, section 4.1.4).
        """
        valid = [
            key
            for key in self.keys
            if algorithm in key.algorithms and (key.valid_until is None or now < key.valid_until)
        ]
        if kid is None:
            return valid
        return [key for key in valid if key.kid == kid] or [key for key in valid if key.kid is None]
