"""The wire protocol ``trioserver.v1``, with no I/O and no clock: usable by any Python program."""

from protocol.errors import ERRORS, ErrorCode, Fatal, Refusal, Retry, close_code_of

__all__ = ["ERRORS", "ErrorCode", "Fatal", "Refusal", "Retry", "close_code_of"]
