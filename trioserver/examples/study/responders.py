"""Responders answer a question; the default one uses the passages only, without a network."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final, Protocol

import trio

from trioserver.examples.study.library import Passage, key_words
from trioserver.examples.study.passages import sentences

WORD_PAUSE: Final = 0.02  # seconds; a language model does not say everything at once either
MAX_SENTENCES: Final = 4

NOTHING_FOUND: Final = "Your texts do not answer this. Use other words, or upload a text about it."


class Responder(Protocol):
    """Answers questions. Use your own with ``make(..., responder=...)``."""

    def running(self) -> AbstractAsyncContextManager[object]:
        """Return a context manager around the run of the application."""

    def answer(self, question: str, passages: Sequence[Passage]) -> AsyncGenerator[str, None]:
        """An async generator of pieces of the answer. It is closed early where the user cancels.

        Raises `Refusal` with ``unavailable`` where there can be no answer now.
        """


class Composer:
    """Composes the answer from the sentences that share words with the question."""

    def running(self) -> AbstractAsyncContextManager[object]:
        return nullcontext()

    async def answer(self, question: str, passages: Sequence[Passage]) -> AsyncGenerator[str, None]:
        for word in compose(question, passages).split(" "):
            await trio.sleep(WORD_PAUSE)
            yield word + " "


def compose(question: str, passages: Sequence[Passage]) -> str:
    """Return the best sentences, in the order of the texts, each with its position."""
    stems = {_stem(word) for word in key_words(question)}
    scored = [
        (len(stems & {_stem(word) for word in key_words(sentence)}), passage, sentence)
        for passage in passages
        for sentence in sentences(passage.text)
    ]
    best = sorted(scored, key=lambda entry: -entry[0])[:MAX_SENTENCES]
    chosen = [entry for entry in scored if entry in best and entry[0] > 0]
    if not passages:
        return NOTHING_FOUND
    if not chosen:  # a heading was what fitted
        chosen = [(0, passages[0], passages[0].text)]
    quotes = [f"{sentence} ({passage.name}, {passage.number})" for _, passage, sentence in chosen]
    return "Your texts say: " + " ".join(quotes)


def _stem(word: str) -> str:
    """Return roughly the stem of a word, so that "tree" and "trees" are the same."""
    return word[: max(4, len(word) - 3)]
