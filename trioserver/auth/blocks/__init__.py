"""Blocks: they refuse users, login sessions, tokens and resources."""

from trioserver.auth.blocks.block import Block
from trioserver.auth.blocks.blocks import Blocks, TooManyBlocksError
from trioserver.auth.blocks.withdrawals import Withdrawals

__all__ = ["Block", "Blocks", "TooManyBlocksError", "Withdrawals"]
