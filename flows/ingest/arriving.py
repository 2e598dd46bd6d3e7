"""Sessions that still arrive: their files, or studies of a server, have just changed, and a later run takes them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from flows.ingest.session_plan import SessionPlan
from storage.source.files import last_change
from storage.store.schema import Reason, Status


@dataclass(frozen=True, slots=True)
class Quiet:
    """The time since when files must not have changed, in seconds since 1970; infinite where they may."""

    since: float

    @classmethod
    def of(cls, seconds: float) -> Quiet:
        """Of files that must have been quiet for so many seconds by now; 0: they need not."""
        return cls(time.time() - seconds if seconds > 0 else math.inf)

    def is_broken(self, plan: SessionPlan) -> bool:
        """Whether a file of the session has changed since."""
        if math.isinf(self.since):
            return False
        changed = max((series.changed for series in plan.series), default=0.0)
        paths = (path for series in plan.series if series.server is None for path in series.paths)
        return max(changed, last_change(paths)) > self.since


def left_for_later(plan: SessionPlan) -> SessionPlan:
    """The plan of a session that a later run takes."""
    text = "its files have changed a moment ago; a later run takes it"
    return replace(plan, status=Status.SKIPPED, reason=Reason.STILL_ARRIVING, explanation=text, placement=None)
