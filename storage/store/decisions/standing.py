"""Which decisions stand: the last one on each scope that was not taken back, while it rests on what is there now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from storage.store.decisions.codes import RESTS_ON, Decision, Scope, Subject, Verdict

Key = tuple[Subject, str, Scope]
"""What is decided on: session or group, which, and what of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The decision that counts on one scope, and what has changed since; open again where anything has."""

    decision: Decision
    changed: tuple[str, ...] = ()
    others: tuple[Decision, ...] = ()
    """The last one of each other rater, which agree with it or not."""

    @property
    def is_open(self) -> bool:
        """Whether it has to be decided again: what it was made on is no more, or the rater was not sure."""
        return bool(self.changed) or self.decision.verdict is Verdict.UNSURE

    @property
    def is_disputed(self) -> bool:
        """Whether raters disagree."""
        return any(other.verdict is not self.decision.verdict for other in self.others)


def key_of(decision: Decision) -> Key:
    """What a decision is on."""
    return decision.kind, decision.subject, decision.scope


def not_undone(decisions: Iterable[Decision]) -> dict[Key, list[Decision]]:
    """Decisions by what they are on, in their order, without those that their rater has taken back.

    An undo takes back the rater's own last decision on the same scope, and nothing where there is none.
    """
    kept: dict[Key, list[Decision]] = defaultdict(list)
    for decision in decisions:
        there = kept[key_of(decision)]
        if decision.verdict is not Verdict.UNDO:
            there.append(decision)
            continue
        own = [place for place, earlier in enumerate(there) if earlier.rater == decision.rater]
        if own:
            del there[own[-1]]
    return {key: there for key, there in kept.items() if there}


def standings(
    decisions: Sequence[Decision], now: Mapping[tuple[Subject, str], Mapping[str, str]]
) -> dict[Key, Standing]:
    """What stands on each scope.

    Parameters
    ----------
    now
        What each session and group rests on now: `storage.store.decisions.codes.DIGESTS`. One that is not there has
        changed in everything.
    """
    result = {}
    for key, there in not_undone(decisions).items():
        last = there[-1]
        by_rater = {decision.rater: decision for decision in there}
        current = now.get((last.kind, last.subject), {})
        result[key] = Standing(
            decision=last,
            changed=tuple(name for name in _rests_on(last) if current.get(name) != getattr(last, name)),
            others=tuple(decision for rater, decision in by_rater.items() if rater != last.rater),
        )
    return result


def _rests_on(decision: Decision) -> Iterable[str]:
    """New sessions are no new group: a group's input is that of none of them."""
    names = RESTS_ON[decision.scope]
    return names if decision.kind is Subject.SESSION else [name for name in names if name != "input_digest"]
