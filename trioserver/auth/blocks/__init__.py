"""Keeping users, sessions, tokens and resources out."""

from trioserver.auth.blocks.block import Block
from trioserver.auth.blocks.blocks import Blocks, TooManyBlocksError
from trioserver.auth.blocks.withdrawals import Withdrawals

__all__ = ["Block", "Blocks", "TooManyBlocksError", "Withdrawals"]
