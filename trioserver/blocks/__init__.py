"""Keeping users, sessions, tokens and resources out."""

from trioserver.blocks.block import Block
from trioserver.blocks.blocks import Blocks, TooManyBlocks
from trioserver.blocks.withdrawals import Withdrawals

__all__ = ["Block", "Blocks", "TooManyBlocks", "Withdrawals"]
