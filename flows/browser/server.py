"""The server of the pages: on the loopback, read-only unless decisions are asked for, each answer of one snapshot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from flows.browser import libraries
from flows.browser.deciding import commit_decisions, preview_decisions
from flows.browser.pages import document, script, style
from flows.browser.safety import Guard
from flows.browser.session import history_json, session_json
from flows.browser.thumbnails import thumbnail
from flows.browser.view import View, view_of
from flows.browser.volumes import GridError, shown_difference, shown_volume, value_at
from flows.errors import explain
from storage.store.cohort import Cohort, latest
from storage.store.decisions.codes import DecisionError
from storage.store.repository import StoreError, snapshot_of
from storage.store.schema import IMAGE_NAMES

VOLUME = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What is served: a store, pinned to a snapshot or at its last commit; ``can_decide``: with decisions."""

    cohort: Cohort
    is_pinned: bool = False
    can_decide: bool = False
    rater: str = ""

    def current(self) -> View:
        """The snapshot that a page opened now shows."""
        return view_of(self.cohort if self.is_pinned else latest(self.cohort))

    def prepare(self) -> None:
        """Read what every page opened now rests on."""
        _of_snapshot(self.current(), self.can_decide, self.rater)

    def read_ahead(self) -> None:
        """Make what the first plots and the first volume need, while somebody looks at the first page."""
        import nibabel.nifti1  # noqa: F401 - takes .2 s

        _ = self.current().table_json

    def at(self, snapshot: str) -> View:
        """The snapshot that a page shows already.

        Raises
        ------
        StoreError
            If the store has no such state.
        """
        if snapshot == self.cohort.snapshot:
            return view_of(self.cohort)
        return view_of(self.cohort.at_snapshot(snapshot_of(self.cohort.repository, snapshot).id))


def application(site: Site, token: str) -> Starlette:
    """The pages of a site as an ASGI application, below the token."""
    routes = [
        Route("/", partial(_document, site)),
        Route("/static/{name}", _static),
        Route("/at/{snapshot}/table.json", partial(_table, site)),
        Route("/at/{snapshot}/session/{session}.json", partial(_of_session, site, session_json)),
        Route("/at/{snapshot}/history/{session}.json", partial(_of_session, site, history_json)),
        Route("/at/{snapshot}/volume/{session}/{name}.nii", partial(_volume, site)),
        Route("/at/{snapshot}/value/{session}/{name}/{x:int}/{y:int}/{z:int}.json", partial(_value, site)),
        Route("/at/{snapshot}/difference/{session}/{other_snapshot}/{other}/{name}.nii", partial(_difference, site)),
        Route("/at/{snapshot}/thumbnail/{session}/{name}.jpg", partial(_thumbnail, site)),
    ]
    if site.can_decide:
        routes += [
            Route("/decisions/preview", partial(_decide, site, preview_decisions), methods=["POST"]),
            Route("/decisions", partial(_decide, site, commit_decisions), methods=["POST"]),
        ]
    return Starlette(
        routes=[Mount(f"/{token}", routes=routes)],
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={StoreError: _refused, DecisionError: _refused, Exception: _failed},
    )


def _document(site: Site, request: Request) -> Response:
    at = request.query_params.get("at")
    view = site.current() if at is None else site.at(at)
    return HTMLResponse(_of_snapshot(view, site.can_decide, site.rater))


@lru_cache(maxsize=4)
def _of_snapshot(view: View, can_decide: bool, rater: str) -> str:
    """The document of a snapshot, which never changes; of thousands of sessions it takes most of a second."""
    return document(view, can_decide=can_decide, rater=rater)


def _static(request: Request) -> Response:
    sources: dict[str, tuple[Callable[[], str], str]] = {
        "browser.js": (script, "text/javascript"),
        "browser.css": (style, "text/css"),
        "plotly.js": (libraries.plotly, "text/javascript"),
        "niivue.js": (libraries.niivue, "text/javascript"),
    }
    found = sources.get(request.path_params["name"])
    if found is None:
        raise HTTPException(404)
    return Response(found[0](), media_type=found[1])


def _table(site: Site, request: Request) -> Response:
    return Response(site.at(request.path_params["snapshot"]).table_json, media_type="application/json")


def _of_session(site: Site, what: Callable[[View, str], bytes], request: Request) -> Response:
    view = site.at(request.path_params["snapshot"])
    try:
        content = what(view, request.path_params["session"])
    except KeyError:
        raise HTTPException(404, "this snapshot has no such session") from None
    return Response(content, media_type="application/json")


def _volume(site: Site, request: Request) -> Response:
    return Response(shown_volume(*_stored(site, request)), media_type=VOLUME)


def _difference(site: Site, request: Request) -> Response:
    view, session, name = _stored(site, request)
    other = request.path_params["other"]
    other_view = site.at(request.path_params["other_snapshot"])
    if other not in other_view.cohort.slots:
        raise HTTPException(404, "this snapshot has no such volume")
    try:
        return Response(shown_difference(view, session, other_view, other, name), media_type=VOLUME)
    except GridError as error:
        raise HTTPException(409, str(error)) from None


def _value(site: Site, request: Request) -> Response:
    voxel = tuple(request.path_params[axis] for axis in "xyz")
    try:
        return JSONResponse(value_at(*_stored(site, request), voxel))
    except IndexError as error:
        raise HTTPException(404, str(error)) from None


def _thumbnail(site: Site, request: Request) -> Response:
    return Response(thumbnail(*_stored(site, request)), media_type="image/jpeg")


def _stored(site: Site, request: Request) -> tuple[View, str, str]:
    view = site.at(request.path_params["snapshot"])
    session, name = request.path_params["session"], request.path_params["name"]
    if session not in view.cohort.slots or name not in IMAGE_NAMES:
        raise HTTPException(404, "this snapshot has no such volume")
    return view, session, name


async def _decide(site: Site, what: Callable[[Cohort, object], dict[str, object]], request: Request) -> Response:
    from starlette.concurrency import run_in_threadpool

    if not request.headers.get("content-type", "").startswith("application/json"):
        raise HTTPException(415, "decisions come as JSON")
    asked = await request.json()
    return JSONResponse(await run_in_threadpool(what, site.cohort, asked))


def _refused(request: Request, error: Exception) -> Response:  # noqa: ARG001 - signature of the handler
    return JSONResponse({"error": explain(error)}, status_code=400)


def _failed(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return JSONResponse({"error": explain(error)}, status_code=500)
