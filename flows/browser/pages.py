"""The document that holds all pages, its script and its style: text is made here, plots and volumes in the browser."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any

from flows.browser.failing import failures
from flows.browser.view import FAR_SHOWN, View
from storage.store.decisions.codes import MEANINGS, Ground, Scope, Verdict

SCRIPTS = (
    "core.js",
    "table.js",
    "marks.js",
    "plots.js",
    "drift.js",
    "wall.js",
    "viewer.js",
    "session.js",
    "compare.js",
    "decide.js",
    "start.js",
)
PAGES = (
    ("overview", "Overview"),
    ("groups", "Groups"),
    ("outliers", "Outliers"),
    ("drift", "Drift"),
    ("wall", "Wall"),
    ("compare", "Compare"),
    ("failures", "Failures"),
    ("decisions", "Decisions"),
)


@lru_cache(maxsize=1)
def script() -> str:
    """The script of the pages."""
    parts = [files("flows.browser").joinpath("static", name).read_text(encoding="utf-8") for name in SCRIPTS]
    return "(function () {\n'use strict';\n" + "\n".join(parts) + "\n})();\n"


@lru_cache(maxsize=1)
def style() -> str:
    """The style of the pages."""
    return files("flows.browser").joinpath("static", "browser.css").read_text(encoding="utf-8")


def document(view: View, *, can_decide: bool = False, rater: str = "", offline: dict[str, Any] | None = None) -> str:
    """All pages of one snapshot as one HTML document.

    Parameters
    ----------
    can_decide, rater
        Whether its pages ask for decisions, and the code that they offer for who decides.
    offline
        What a document that is opened from a file holds itself; None where a server has it.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("flows.browser"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("document.html").render(
        pages=PAGES,
        snapshot=view.cohort.snapshot,
        overview=view.overview(),
        outliers=view.outliers[:FAR_SHOWN],
        n_sessions=len(view.outliers),
        failures=failures(view),
        decisions=view.decisions(),
        agreement=view.agreement(),
        can_decide=can_decide,
        rater=rater,
        verdicts=[(str(one), MEANINGS[one]) for one in Verdict],
        grounds=[(str(one), MEANINGS[one]) for one in Ground],
        scopes=[(str(one), MEANINGS[one]) for one in Scope],
        offline=offline,
    )
