"""What one session's worker hands to the store beside its images, up to what users read of it."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from flows.ingest.rows import row_of, values_of
from flows.ingest.session import IngestTask, ingest_session
from flows.ingest.session_plan import plan_session
from qmri_core.preprocessing.session import Preprocessed
from qmri_core.series.acquisition import Contrast
from qmri_core.series.geometry import FIELD_SHAPE
from qmri_core.series.remarks import Remark, RemarkKind, kinds_of
from storage.source.discovery import discover
from storage.store.cohort import Cohort, begin_append, commit, writing
from tests.flows.tiny_cohort import GRID, GROUPS, images, placement_of
from tests.storage.niftis import write_visit


def preprocessed(*, is_enhanced: bool, odd: str, marks: tuple[str, ...]) -> Preprocessed:
    """A session on the grid, as preprocessing returns it where the T1w looks like one after an agent, or not."""
    arrays = images(0)
    remark = Remark(kind=RemarkKind.AGENT, text="T1w: 0.400% of the brain lie beside fluid and are bright")
    return Preprocessed(
        images={contrast: arrays[contrast] for contrast in Contrast},
        brain_mask=arrays["brain_mask"],
        tissue=arrays["tissue"],
        affine=arrays["affine"],
        reference=Contrast.T2W,
        bias_fields={contrast: np.ones(FIELD_SHAPE, dtype=np.float32) for contrast in Contrast},
        marks=marks,
        quality={"brain_volume": 1.3, "coverage": 0.5 if odd else 1.0},
        remarks=(remark,) if is_enhanced else (),
    )


@pytest.mark.parametrize("odd", ["", "coverage"])
@pytest.mark.parametrize("marks", [(), ("T2w_saturated",)])
@pytest.mark.parametrize("is_enhanced", [False, True])
def test_a_t1w_that_looks_like_one_after_an_agent_is_marked_in_the_store(
    tmp_path: Path, is_enhanced: bool, odd: str, marks: tuple[str, ...]
) -> None:
    write_visit(tmp_path / "source", "sub-01")
    plan = plan_session(discover(tmp_path / "source", key=bytes(32)).series)
    store = str(tmp_path / "store")
    result = preprocessed(is_enhanced=is_enhanced, odd=odd, marks=marks)
    with writing(store, create=True) as repository, patch("flows.ingest.repeats.preprocess", return_value=result):
        wave = begin_append(repository, [placement_of(plan.session, GROUPS[0])])
        task = IngestTask(
            slot=wave.slots[plan.session],
            status=plan.status,
            series={contrast: plan.equals_of(contrast) for contrast in plan.chosen},
            acquisitions=plan.acquisitions,
            grid=GRID,
            fork=wave.fork,
        )
        outcome = ingest_session(task)
        assert (outcome.error, outcome.explanation) == ("", "")
        assert outcome.fork is not None
        values, row = {plan.session: values_of(plan, outcome)}, row_of(plan, outcome)
        commit(repository, wave, [outcome.fork], values=values, rows=[row], message="Ingest 1 session")
    cohort = Cohort.open(store)
    (stored,) = cohort.sessions["quality_marks"]
    expected = [odd] * bool(odd) + [*marks] + ["T1w_enhanced"] * is_enhanced
    assert sorted(filter(None, stored.split(","))) == sorted(expected)
    (told,) = cohort.catalogue["remarks"]
    assert ("agent" in kinds_of([told])) is is_enhanced
