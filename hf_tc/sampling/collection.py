# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Which documents are sampled, and which of them are kept.

Documents are kept in the order in which they were begun, not in which they ended: those that end first are the short
ones, and the text would have too many of them. What is begun depends on what was sampled before and on nothing else, so
that sampled tokens, put in again, give the same collection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_tc.data.conversations import Document
from hf_tc.data.text_files import CalibrationDataError
from hf_tc.data.token_blocks import count_tokens
from hf_tc.sampling.drafts import Draft, Fault
from hf_tc.sampling.prompts import Prompts

MOST_BAD = 0.5  # share of the documents; the text of a teacher that does worse would not be its usual one
FEWEST_JUDGED = 32  # documents, before the share is looked at
FEWEST_ALL_BAD = 8  # documents, before it is looked at whether any is of use


@dataclass
class _Kind:
    """The documents of one kind.

    Attributes:
        wanted, tokens: that it shall have, and of all that ended well.
        begun, good: documents that were begun, and that ended well.
        kept, kept_tokens: the first of them, up to the tokens wanted or to one that has not ended.
        waiting: those that ended after one that has not, by number; None for a bad one.
    """

    wanted: int
    tokens: int = 0
    begun: int = 0
    good: int = 0
    kept: list[tuple[Document, int]] = field(default_factory=list)
    kept_tokens: int = 0
    waiting: dict[int, tuple[Document, int] | None] = field(default_factory=dict)
    _next: int = 0

    @property
    def is_complete(self) -> bool:
        return self.kept_tokens >= self.wanted

    def end(self, number: int, found: tuple[Document, int] | None) -> None:
        """The document of that number ended, well with so many tokens, or not."""
        self.waiting[number] = found
        if found is not None:
            self.tokens, self.good = self.tokens + found[1], self.good + 1
        while self._next in self.waiting and not self.is_complete:
            found = self.waiting.pop(self._next)
            self._next += 1
            if found is not None:
                self.kept.append(found)
                self.kept_tokens += found[1]


class Collection:
    """Documents of some kinds, until there are so many tokens of each.

    Args:
        wanted: tokens by kind.
        most_tokens: of a document, its prompt included; free text and answers are cut there.
    """

    def __init__(self, wanted: dict[str, int], prompts: Prompts, tokenizer: Any, most_tokens: int) -> None:
        self.kinds = {kind: _Kind(tokens) for kind, tokens in wanted.items()}
        self.prompts, self.tokenizer, self.most_tokens = prompts, tokenizer, most_tokens
        self.drafts: list[Draft] = []
        self.faults = Counter[str]()
        self._seen: set[str] = set()

    @property
    def tokens(self) -> int:
        """Of all documents that ended well, no more than are wanted."""
        return sum(min(kind.tokens, kind.wanted) for kind in self.kinds.values())

    def begin(self, rows: int) -> list[list[int]]:
        """Begins documents, up to so many at once, as many as are expected to be needed; the token ids of all that are
        in progress. None are once the collection is complete."""
        while len(self.drafts) < rows:
            missing = {name: self._expected_share(name) for name in self.kinds}
            name = min(missing, key=missing.__getitem__)
            if missing[name] >= 1:
                break
            self.drafts.append(Draft.begin(name, self.kinds[name].begun, self.prompts))
            self.kinds[name].begun += 1
        return [draft.ids for draft in self.drafts]

    def take(self, sampled: Sequence[list[int]]) -> None:
        """Gives each document in progress the tokens that were sampled for it.

        Raises:
            CalibrationDataError: too many documents are of no use.
        """
        going_on = []
        for draft, tokens in zip(self.drafts, sampled, strict=True):
            result = draft.extend(tokens, self.prompts, self.tokenizer, self.most_tokens)
            if result is None:
                going_on.append(draft)
            else:
                self._end(draft, result)
        complete = {name for name, kind in self.kinds.items() if kind.is_complete}
        self.drafts = [draft for draft in going_on if draft.kind not in complete]
        self._check_faults()

    def documents(self) -> list[Document]:
        """Those that are kept; kinds take turns, so that any part of the text has all of them."""
        ends = []
        for kind in self.kinds.values():
            tokens = 0
            for document, count in kind.kept:
                ends.append((tokens / kind.wanted, document))
                tokens += count
        return [document for _, document in sorted(ends, key=lambda item: item[0])]

    def _expected_share(self, name: str) -> float:
        """Of the tokens wanted, what there is and what the documents in progress may come to."""
        kind = self.kinds[name]
        typical = kind.tokens / kind.good if kind.good else self.most_tokens / 2
        begun = sum(draft.kind == name for draft in self.drafts)
        return (kind.tokens + begun * typical) / kind.wanted

    def _end(self, draft: Draft, result: Document | Fault) -> None:
        if not isinstance(result, Fault) and repr(result) in self._seen:
            result = Fault.IDENTICAL
        if isinstance(result, Fault):
            self.faults[result.value] += 1
            self.kinds[draft.kind].end(draft.number, None)
        else:
            self._seen.add(repr(result))
            self.kinds[draft.kind].end(draft.number, (result, count_tokens(result, self.tokenizer)))

    def _check_faults(self) -> None:
        """Of all that were begun: those that are in progress may be good, and the worst are often the first to end."""
        begun, bad = sum(kind.begun for kind in self.kinds.values()), self.faults.total()
        if (begun >= FEWEST_JUDGED and bad > MOST_BAD * begun) or bad == begun >= FEWEST_ALL_BAD:
            found = ", ".join(f"{count} {fault}" for fault, count in self.faults.most_common())
            other = "sample the other kind alone (sampled:chat, sampled:free), " if len(self.kinds) > 1 else ""
            raise CalibrationDataError(
                f"{bad / begun:.0%} of {begun} documents that the teacher began are of no use ({found}); at most "
                f"{MOST_BAD:.0%} may be. Check that the teacher writes sense, {other}or give text."
            )
