"""`trioserver token make` and `trioserver token inspect`."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from trioserver.auth import JWTAuth, Key, inspect_token, make_token
from trioserver.auth.files import public_keys
from trioserver.auth.keys import ALGORITHMS
from trioserver.cli.output.terminal import Exit, one_line, print_json
from trioserver.cli.output.token_inspection import inspection_as_json, print_inspection
from trioserver.cli.parameters.durations import DURATION
from trioserver.cli.parameters.keys import (
    KeyMaterial,
    key_failure,
    key_options,
    read_key,
    read_text,
    user_id_option,
)

_ALGORITHMS: Final = [name for name in ALGORITHMS if name != "Ed25519"]
"""Algorithms that can sign a token; Ed25519 is listed under its other name, EdDSA."""

_STDIN: Final = "-"


@click.group("token")
def command() -> None:
    """Make a token, or show what a token contains.

    \b
    Examples:
      trioserver token make alice --lifetime 1h
      trioserver token inspect --file token.txt
    """


@command.command("make")
@click.argument("subject")
@click.option(
    "--lifetime",
    type=DURATION,
    default="30m",
    show_default=True,
    help="Time until the token expires: seconds, or 90s, 30m, 1h30m, 2d. A negative value makes an "
    "expired token.",
)
@click.option(
    "--claim",
    "claims",
    multiple=True,
    metavar="NAME=TEXT",
    help="Add a claim with a text; NAME:=JSON adds another value, such as admin:=true. Can be "
    "repeated.",
)
@click.option("--claims", "claims_json", metavar="JSON", help="Add the claims of this JSON object.")
@click.option("--issuer", metavar="TEXT", help="Issuer of the token: its iss claim.")
@click.option(
    "--audience",
    multiple=True,
    metavar="TEXT",
    help="Audience of the token: its aud claim. Can be repeated.",
)
@key_options
@click.option(
    "--kid", metavar="TEXT", help="Id of the key, for the kid field of the token's header."
)
@click.option(
    "--algorithm",
    type=click.Choice(_ALGORITHMS),
    metavar="NAME",
    help=f"Signature algorithm: {', '.join(_ALGORITHMS)}.  [default: the first that fits the key]",
)
def make(
    subject: str,
    lifetime: float,
    claims: tuple[str, ...],
    claims_json: str | None,
    issuer: str | None,
    audience: tuple[str, ...],
    kid: str | None,
    algorithm: str | None,
    **key: str | None,
) -> None:
    """Print a signed token for the user whose id is SUBJECT.

    The secret is read from --secret-file or the variable TRIOSERVER_SECRET. To sign with a key
    pair, give the private key with --key-file.

    \b
    Examples:
      trioserver token make alice
      trioserver token make alice --claim phone=9876543210 --claim admin:=true
      trioserver token make alice --lifetime -5m --secret-file secret.txt
      trioserver token make alice --key-file private.pem --kid 2026
    """
    material = read_key(**key)
    if not subject:
        raise click.UsageError("SUBJECT is empty; it must be the user's id")
    if material is None:
        raise click.UsageError(
            "no key to sign the token with; set TRIOSERVER_SECRET (`trioserver secret` makes a "
            "secret), or give --secret-file or --key-file"
        )
    try:
        token = make_token(
            material.text,
            subject=subject,
            lifetime=lifetime,
            claims=_claims(claims, claims_json),
            key_id=kid,
            algorithm=algorithm,
            issuer=issuer,
            audience=audience or None,
        )
    except (ValueError, TypeError) as error:  # TypeError: PyJWT, of a claim
        raise key_failure(material, error) from None
    click.echo(token)


def _claims(pairs: tuple[str, ...], text: str | None) -> dict[str, Any]:
    claims = {} if text is None else _parse("--claims", text)
    if not isinstance(claims, dict):
        raise click.UsageError(
            f"--claims is {text!r}; it must be a JSON object, for example '{{\"admin\": true}}'"
        )
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (equals and name.rstrip(":")):
            raise click.UsageError(f"--claim is {pair!r}; it must be NAME=TEXT or NAME:=JSON")
        is_json = name.endswith(":")
        claims[name.removesuffix(":")] = _parse(f"--claim {pair}", value) if is_json else value
    return claims


def _parse(option: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{option} is not JSON: {one_line(error)}") from None


@command.command("inspect")
@click.argument("token", required=False, envvar="TRIOSERVER_TOKEN", metavar="[TOKEN]")
@click.option("--file", metavar="FILE", help="File that contains the token, in place of TOKEN.")
@key_options
@click.option(
    "--issuer",
    multiple=True,
    metavar="TEXT",
    help="Require this iss claim, or one of several. Can be repeated.  [default: any]",
)
@click.option(
    "--audience",
    multiple=True,
    metavar="TEXT",
    help="Require this aud claim, or one of several. Can be repeated.  [default: any]",
)
@user_id_option
@click.option(
    "--leeway",
    type=DURATION,
    default="30s",
    show_default=True,
    help="Maximum clock difference that is tolerated for exp, nbf and iat.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(
    token: str | None,
    file: str | None,
    issuer: tuple[str, ...],
    audience: tuple[str, ...],
    user_id_claim: str,
    leeway: float,
    as_json: bool,
    **key: str | None,
) -> None:
    """Show the claims of a token, and whether a server would refuse it.

    TOKEN is the token, or - to read it from stdin; by default it is read from the variable
    TRIOSERVER_TOKEN. With a secret or a public key the token is verified. Without one its claims
    are shown, but may be forged.

    The exit code is 1 if a server would refuse the token. It is 0 if a server would accept it, or
    if it was not verified.

    \b
    Examples:
      trioserver token make alice | trioserver token inspect -
      trioserver token inspect --file token.txt --key-file public.pem
      trioserver token inspect --file token.txt --key-file jwks.json \\
        --user-id-claim oid
      trioserver token inspect "$TOKEN" --secret-file secret.txt --json
    """
    text = _read_token(token, file)
    material = read_key(**key)
    try:
        auth = (
            None
            if material is None
            else JWTAuth(
                keys=_keys_of(material),
                issuer=issuer or None,
                audience=audience or None,
                user_id_claim=user_id_claim,
                required=("exp", user_id_claim),
                leeway=leeway,
            )
        )
    except ValueError as error:
        assert material is not None
        raise key_failure(material, error) from None
    inspection = inspect_token(text, auth=auth)
    if as_json:
        print_json(inspection_as_json(inspection))
    else:
        print_inspection(inspection, None if material is None else material.origin)
    # A text that is not a JWT is refused with any key, so also without one.
    if inspection.verified is False or inspection.header is None or inspection.claims is None:
        raise click.exceptions.Exit(Exit.FAILED)


def _read_token(token: str | None, file: str | None) -> str:
    """The token, without a copied "Authorization: Bearer"."""
    if file is not None:
        text = read_text(file)
    elif token is None:
        raise click.UsageError(
            "no token given; give it as TOKEN, with --file, in TRIOSERVER_TOKEN, or - to read stdin"
        )
    else:
        text = read_text(token) if token == _STDIN else token.strip()
    return text.removeprefix("Authorization:").strip().removeprefix("Bearer ").strip()


def _keys_of(material: KeyMaterial) -> list[Key]:
    if material.pem:
        return public_keys(material.text)
    return [Key.secret(text) for text in (material.text, *material.others)]
