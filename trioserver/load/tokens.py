"""`TokenSource`: each client's token, given, from a file, signed here or printed by a command."""

from __future__ import annotations

import subprocess
from typing import Final

import trio

from trioserver.auth.tokens import make_token
from trioserver.load.plan import CLIENT, Tokens

_COMMAND_TIMEOUT: Final = 30.0
_COMMANDS_AT_ONCE: Final = 8
_MAX_BYTES: Final = 64 * 1024


class TokenError(Exception):
    """A token could not be obtained; the text says why, and contains no token."""


class TokenSource:
    """Makes tokens for clients by their numbers."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._commands = trio.CapacityLimiter(_COMMANDS_AT_ONCE)

    @property
    def renews(self) -> bool:
        """Whether a client can get a new token when its own expires."""
        return self._tokens.secret is not None or bool(self._tokens.command)

    async def make(self, number: int) -> str | None:
        """Make a token for a client; None if it has none. Raises `TokenError`."""
        tokens = self._tokens
        if tokens.command:
            return await self._run(number)
        await trio.lowlevel.checkpoint()
        if tokens.secret is not None:
            subject = tokens.subject.replace(CLIENT, str(number))
            try:
                return make_token(tokens.secret, subject=subject, lifetime=tokens.lifetime)
            except ValueError as error:
                raise TokenError(f"cannot sign a token: {error}") from None
        if tokens.lines:
            return tokens.lines[number % len(tokens.lines)]
        return tokens.fixed

    async def _run(self, number: int) -> str:
        command = [part.replace(CLIENT, str(number)) for part in self._tokens.command]
        try:
            async with self._commands:
                with trio.fail_after(_COMMAND_TIMEOUT):
                    done = await trio.run_process(
                        command, capture_stdout=True, stderr=subprocess.DEVNULL, check=False
                    )
        except OSError as error:
            raise TokenError(f"cannot run {command[0]}: {error.strerror}") from None
        except trio.TooSlowError:
            raise TokenError(f"{command[0]} printed no token in {_COMMAND_TIMEOUT:g} s") from None
        token = done.stdout[:_MAX_BYTES].strip().decode("ascii", "replace")
        if done.returncode != 0 or not token:
            raise TokenError(f"{command[0]} printed no token (exit code {done.returncode})")
        return token
