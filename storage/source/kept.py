"""What was made of a session's series in an earlier run, which holds as long as all that they rest on is as it was.

A session's series rest on its files as the index has them, on what the other files say of who it is and when, on the
tables of its person in a BIDS tree, and on what the user states. All of that goes into one digest.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from storage.source.assume_file import Assumption, matching
from storage.source.bids.people import People, Place
from storage.source.files import relative
from storage.source.index import Index
from storage.source.series import Series
from storage.source.visits.rule import Visits


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """What the series of all sessions of a source rest on."""

    index: Index
    visits: Visits
    people: People
    unread: Mapping[str, int]
    assume: Sequence[Assumption]
    root: Path
    stated: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stated", "\n".join(entry.model_dump_json() for entry in self.assume).encode())

    def kept(self, session: str, by: bytes) -> tuple[bytes, frozenset[int]] | None:
        """What `keep` was given, and the positions of the assumptions that its series match; None if it holds no more.

        Parameters
        ----------
        by
            What the content rests on beside the series.
        """
        found = self.index.kept(session)
        if not found:
            return None
        digest, places, used, content = pickle.loads(found)  # noqa: S301 - our own private file
        return (content, used) if digest == self._digest(session, places, by) else None

    def keep(self, session: str, series: Sequence[Series], by: bytes, content: bytes) -> None:
        """Keep what was made of the series of a session."""
        places = self.people.places(series)
        matches = {matching(self.assume, relative(one.paths[0], self.root)) for one in series} if self.assume else set()
        used = frozenset(matches - {None})
        value = pickle.dumps((self._digest(session, places, by), places, used, content), pickle.HIGHEST_PROTOCOL)
        self.index.keep(session, value)

    def _digest(self, session: str, places: Sequence[Place], by: bytes) -> bytes:
        digest = hashlib.sha256(by)
        digest.update(self.stated)
        who = self.visits.who(session)
        files = [
            (unit, self.index.files_of(unit), is_foreign)
            for is_foreign in (False, True)
            for unit in self.visits.units(session, foreign=is_foreign)
        ]
        tables = [self.people.state(place) for place in places]
        told = sorted(map(repr, who.remarks))
        said = (who.person, who.date, who.first_date, who.is_common_date, told, self.unread.get(session, 0))
        digest.update(repr((files, said, tables)).encode())
        return digest.digest()
