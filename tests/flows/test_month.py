"""A month of nights: each does what depends on what happened that day and no more, ends in the right state, and calls.

The nights are real runs of the flow on a real Prefect server, on real files and a real store, in this process; in the
place of what takes long, preprocessing, stands `tests.flows.many_sessions.preprocess`. The days of the nights' names,
the free disk of one night, and the death of one worker are told, not lived through: `test_kill_runs`,
`test_dask_processes` and the tests of `storage.store.room` have those.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, NamedTuple, Self

import nibabel
import numpy as np
import pytest
from distributed import KilledWorker
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from typer.testing import CliRunner

from flows.cli.main import app
from flows.cli.store import TOO_OLD
from flows.deployed.reprocess_nightly import reprocess_nightly
from flows.ingest.run import ingest
from flows.ingest.session import IngestTask
from flows.maps.weights import chosen_weights
from flows.selection import Selection
from flows.statistics.aggregate import read_statistics
from qmri_core.mapping.checkpoint import checkpoint_bytes
from qmri_core.mapping.network import MapNetwork, NetworkSettings
from qmri_core.preprocessing.brain_mask import BrainMaskError
from qmri_core.preprocessing.session import Preprocessed
from qmri_core.series.acquisition import Contrast
from qmri_core.series.geometry import Volume
from storage.pseudonyms import load_key
from storage.source.discovery import scan_source
from storage.store.checkpoints import register
from storage.store.cohort import Cohort
from storage.store.lifecycle.forget import forget
from storage.store.lifecycle.nights import night_of
from storage.store.lifecycle.verify import verify
from storage.store.schema import Reason, Status
from tests.benchmarks.test_orchestration import Loop
from tests.flows import many_sessions
from tests.flows.prefect_processes import Prefect, prefect, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

FIRST_DAY = datetime(2026, 11, 1, tzinfo=UTC)
KEEP_DAYS = 10
CALLS = {"SessionsFailed", "Failed"}
"""States of which ``deploy/automations.yaml`` calls a person."""


NO_BRAIN = 5000
"""In the images of this month, what is added to those in which no brain is to be found."""


def preprocess(volumes: Mapping[Contrast, Volume], *more: Any) -> Preprocessed:
    """Stand-in for preprocessing, which finds no brain in some images."""
    if volumes[Contrast.T1W].array.min() >= NO_BRAIN:
        raise BrainMaskError("no brain was found: all is as bright as a bottle")
    return many_sessions.preprocess(volumes, *more)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


class Calendar(datetime):
    """What the nights take for the day."""

    today_is = FIRST_DAY

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:  # type: ignore[override]
        del tz
        return cls.fromisoformat(cls.today_is.isoformat())


class Later(datetime):
    """Two days from now, for who asks when something was last done."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:  # type: ignore[override]
        return super().now(tz) + timedelta(days=2)


class Work(logging.Handler):
    """Sessions that runs have done, by run, from the log of sessions."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.done: dict[str, set[str]] = defaultdict(set)

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = record.__dict__["fields"]
        self.done[fields["run"]].add(fields["session"])

    def taken(self) -> dict[str, set[str]]:
        done, self.done = dict(self.done), defaultdict(set)
        return done


@dataclass(slots=True)
class Site:
    """A hospital's archive, its store, and what happens there."""

    source: Path
    store: str
    key_file: Path
    patch: pytest.MonkeyPatch
    whole: dict[int, bytes] = field(default_factory=dict)
    killing: set[str] = field(default_factory=set)
    names: dict[int, str] = field(default_factory=dict)

    @property
    def key(self) -> bytes:
        return load_key(self.key_file)

    def arrive(self, *numbers: int, damaged: bool = False) -> None:
        for number in numbers:
            folder = self._write(number, seed=number)
            if damaged:
                path = next(folder.glob("*T1w.nii.gz"))
                self.whole[number] = path.read_bytes()
                image = nibabel.load(path)
                bright = (np.asarray(image.dataobj) + NO_BRAIN).astype(np.int16)
                nibabel.save(nibabel.Nifti1Image(bright, None, image.header), path)
        with scan_source(self.source, key=self.key) as scanned:
            for session in scanned.sessions:
                path = scanned.session(session)[1].path
                person, visit = (part.partition("-")[2] for part in Path(path).parts[:2])
                self.names[2 * int(person) + int(visit) - 1] = session

    def change(self, number: int) -> None:
        self._write(number, seed=1000 + number)

    def mend(self, number: int) -> None:
        next(self._folder(number).glob("*T1w.nii.gz")).write_bytes(self.whole[number])

    def _write(self, number: int, seed: int) -> Path:
        return many_sessions.write_session(self.source, number, n_groups=2, rng=np.random.default_rng(seed))

    def _folder(self, number: int) -> Path:
        return self.source / f"sub-{number // 2:05d}" / f"ses-{1 + number % 2}" / "anat"

    def loop(self, client: object, function: Callable[[Any], Any], items: Any, **_: object) -> Iterator[Any]:
        """Items done here one by one; an ingest of a session in ``killing`` costs its worker its life."""
        del client
        for item in items:
            is_killing = isinstance(item, IngestTask) and item.slot.session in self.killing
            yield item, KilledWorker("ingest", None, 2) if is_killing else function(item)  # type: ignore[no-untyped-call]

    def numbers(self, done: Mapping[str, set[str]]) -> dict[str, list[int]]:
        number = {name: each for each, name in self.names.items()}
        return {run: sorted(number[name] for name in sessions) for run, sessions in done.items()}

    def decide(self, verb: str, number: int) -> None:
        line = ["qc", verb, self.names[number], "--store", self.store, "--rater", "r1"]
        result = CliRunner().invoke(app, [*line, *(["--reason", "motion"] if verb == "exclude" else [])])
        assert result.exit_code == 0, result.output

    def promote(self) -> None:
        fresh = MapNetwork(NetworkSettings(widths=(4, 4, 4), embedding=4))  # leaves the voxelwise estimate as it is
        register(self.store, checkpoint_bytes(fresh, {}), record={}, promote=True)

    def touch(self, number: int) -> None:
        for path in self._folder(number).iterdir():
            path.touch()

    def fill_disk(self, free: int) -> None:
        self.patch.setattr("storage.store.room.shutil.disk_usage", lambda _: Usage(free, 0, free))

    def retry(self) -> None:
        selection = Selection(reasons=(Reason.WORKER_LOST,), retry=True)
        ingest(self.source, self.store, key=self.key, client=Loop(), selection=selection)  # type: ignore[arg-type]


class Night(NamedTuple):
    """What must become of a night: its state, what of its message, and the sessions done by number and run."""

    state: str
    says: str
    ingest: tuple[int, ...] = ()
    infer: tuple[int, ...] | None = None
    """As ``ingest``, if None."""
    aggregate: tuple[int, ...] | None = None


QUIET = Night("Completed", "nothing new")
KNOWN = Night("CompletedWithFailures", "1 sessions have failed before")
EXPLAINED = {5: (8, "all is as bright"), 6: (8, "brain_mask"), 8: (9, "all is as bright"), 22: (14, "worker_lost")}
"""Sessions whose failure the summary of a night has to explain, and its reason."""
STORED = (0, 1, 2, 3, 4, 5, 6, 8)
"""Sessions with maps when the weights change: 7 was forgotten, 9 has never been read."""


def happened(site: Site) -> Mapping[int, tuple[Callable[[], None], Night | None]]:
    """What happens on each day, and the night after it; None: it does not come."""
    nothing = {day: (lambda: None, QUIET) for day in range(1, 31)}
    return nothing | {
        1: (lambda: site.arrive(0, 1, 2, 3, 4, 5), Night("Completed", "6 sessions ingested", (0, 1, 2, 3, 4, 5))),
        3: (lambda: site.arrive(6, 7), Night("Completed", "2 sessions ingested", (6, 7))),
        4: (lambda: site.change(0), Night("Completed", "1 sessions ingested", (0,))),
        5: (
            lambda: site.arrive(8, damaged=True),
            Night("SessionsFailed", "1 sessions failed in this run", (8,), (), ()),
        ),
        6: (lambda: None, KNOWN),
        7: (lambda: site.mend(8), Night("Completed", "1 sessions ingested", (8,))),
        8: (
            lambda: site.arrive(9, damaged=True),
            Night("SessionsFailed", "1 sessions failed in this run", (9,), (), ()),
        ),
        9: (lambda: None, KNOWN),
        10: (lambda: site.decide("acknowledge", 9), QUIET),
        12: (lambda: site.decide("exclude", 2), Night("Completed", "0 sessions ingested")),
        14: (lambda: site.decide("undo", 2), Night("Completed", "0 sessions ingested", (), (), (2,))),
        15: (
            lambda: void(forget(site.store, site.names[7], key=site.key)),
            Night("Completed", "0 sessions ingested"),
        ),
        17: (site.promote, Night("Completed", f"maps of {len(STORED)} inferred", (), STORED, STORED)),
        18: (lambda: site.arrive(10, 11), None),
        19: (lambda: None, Night("Completed", "2 sessions ingested", (10, 11))),
        20: (lambda: (site.arrive(12, 13), site.fill_disk(100_000)), Night("Failed", "--no-room-check")),
        21: (lambda: site.fill_disk(10**12), Night("Completed", "2 sessions ingested", (12, 13))),
        22: (
            lambda: (site.arrive(14), site.killing.add(site.names[14])),
            Night("SessionsFailed", "1 sessions failed in this run", (14,), (), ()),
        ),
        23: (lambda: None, KNOWN),
        24: (lambda: (site.killing.clear(), site.retry()), Night("Completed", "maps of 1", (), (14,), (14,))),
        25: (
            lambda: (site.change(4), site.arrive(15)),
            Night("Completed", "2 sessions ingested", (4, 15)),
        ),
        30: (lambda: site.touch(1), QUIET),
    }


def void(_: object) -> None:
    """What is of no interest."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Prefect]:
    with prefect(tmp_path, lines=["prefect server start &"]) as running:
        address = running.environment["PREFECT_API_URL"]
        with temporary_settings({PREFECT_API_URL: address, PREFECT_HOME: tmp_path / "home"}):
            yield running


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    store = f"file://{tmp_path}/store"  # by its address: beside a path each night writes a report, which takes longer
    site = Site(tmp_path / "in", store, tmp_path / "keys" / "key", monkeypatch)
    site.source.mkdir()
    site.key_file.parent.mkdir()
    site.key_file.write_text("5e" * 32)
    (site.source / "dataset_description.json").write_text('{"Name": "month", "BIDSVersion": "1.9.0"}')
    for name, value in {"SOURCE": site.source, "STORE": site.store, "KEY_FILE": site.key_file, "QUIET_FOR": 0}.items():
        monkeypatch.setenv(f"QMRI_{name}", str(value))

    @contextmanager
    def here(_: object) -> Iterator[Loop]:
        yield Loop()

    monkeypatch.setattr("flows.deployed.run.client_on_demand", here)
    monkeypatch.setattr("flows.cluster.driver.run_bounded", site.loop)
    monkeypatch.setattr("flows.ingest.repeats.preprocess", preprocess)
    monkeypatch.setattr("storage.store.lifecycle.nights.datetime", Calendar)
    return site


def events(server: Prefect, states: set[str]) -> list[str]:
    """States that runs have come into, of those asked for, as events of the server."""
    names = [f"prefect.flow-run.{state}" for state in sorted(states)]
    found = server.api("/events/filter", {"filter": {"event": {"name": names}}, "limit": 50})
    return sorted(event["event"].rpartition(".")[2] for event in found["events"])


def test_every_night_of_a_month_does_what_the_day_asks_for(
    site: Site, server: Prefect, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work()
    log = logging.getLogger("qmri.sessions")
    monkeypatch.setattr(log, "handlers", [work])
    log.setLevel(logging.INFO)
    called: list[str] = []
    wrong: list[str] = []
    for day, (happens, expected) in happened(site).items():
        Calendar.today_is = FIRST_DAY + timedelta(days=day - 1, hours=1, minutes=30)
        happens()
        work.taken()  # what people do by day is not the night's
        if expected is None:
            continue
        if day == 19:
            is_missed(site, monkeypatch)
        state: Any = reprocess_nightly(keep_days=KEEP_DAYS, return_state=True)
        said = state.message or ""
        inferred = expected.ingest if expected.infer is None else expected.infer
        aggregated = inferred if expected.aggregate is None else expected.aggregate
        numbers = {"ingest": expected.ingest, "infer": inferred, "aggregate": aggregated}
        asked = {run: {site.names[number] for number in done} for run, done in numbers.items() if done}
        done = work.taken()
        if (state.name, done) != (expected.state, asked) or expected.says not in said:
            wrong.append(f"day {day}: {state.name} ({said}), did {site.numbers(done)} in place of {expected}")
        if expected.state in CALLS:
            called.append(expected.state)
        if failed := EXPLAINED.get(day):
            is_explained(site, server, failed)
    log.setLevel(logging.CRITICAL)
    assert wrong == []
    is_as_it_should_be(site)
    wait_until(lambda: events(server, CALLS) == sorted(called), f"events of {called}", patience=60)
    shown = json.dumps([server.api("/artifacts/filter", {"limit": 200}), server.api("/logs/filter", {"limit": 200})])
    assert not [folder.name for folder in site.source.glob("sub-*") if folder.name in shown]


def is_missed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks from outside, two days after the last night, is told."""
    with monkeypatch.context() as patch:
        patch.setattr("flows.operations.figures.datetime", Later)
        result = CliRunner().invoke(app, ["status", "--store", site.store, "--max-age", "26h"])
    assert result.exit_code == TOO_OLD, result.output
    assert CliRunner().invoke(app, ["status", "--store", site.store, "--max-age", "26h"]).exit_code == 0


def is_explained(site: Site, server: Prefect, failed: tuple[int, str]) -> None:
    """The summary of a night in which sessions failed names them, why, and what to do."""
    text = server.artifacts()["reprocess-nightly-night"]["data"]
    number, reason = failed
    told = text.partition("## Failed")[2].partition("##")[0]
    (row,) = [line for line in told.splitlines() if line.startswith(f"| {site.names[number]} |")]
    assert reason in row
    assert "qmri qc acknowledge" in text.partition("## What a person must do")[2]


def is_as_it_should_be(site: Site) -> None:
    """At the end of the month."""
    cohort = Cohort.open(site.store)
    status = dict(zip(cohort.catalogue["session"], cohort.catalogue["status"], strict=True))
    expected = {site.names[number]: str(Status.COMPLETE) for number in range(16) if number != 7}
    assert status == expected | {site.names[9]: str(Status.FAILED)}
    counted = {name for name, ended in expected.items() if name != site.names[9] and ended}
    assert set(read_statistics(cohort)["session"]) == counted
    assert set(cohort.catalogue["checkpoint_digest"]) == {chosen_weights(cohort).digest, ""}
    days = sorted(night[0] for name in cohort.repository.list_tags() if (night := night_of(name)))
    assert days
    assert f"{FIRST_DAY + timedelta(days=29 - KEEP_DAYS - 8):%Y-%m-%d}" < days[0]  # older nights have ended
    assert verify(cohort) == []
