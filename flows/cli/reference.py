"""The reference of the commands, the settings, the catalogue's words and the exit statuses, as Markdown.

``python -m flows.cli.reference FOLDER`` writes a page of each; `pages` returns them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer.cli import get_docs_for_click

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

EXIT_STATUSES: Mapping[int, str] = {
    0: "The command did what it was asked to do.",
    1: "It could not: an error, told in one line; `verify` found a problem; `run --wait` waited for a run that failed; "
    "`forget` was not confirmed.",
    2: "Wrong usage: an unknown command or option, a value out of range, a setting that cannot be right.",
    3: "The run has finished, and everything that can be stored is stored, but some sessions have failed; "
    "`qmri status` counts them by reason. Sessions that a person has accepted, acknowledged, rejected or excluded "
    "(`qmri qc`) do not count.",
    4: "`status --max-age`: nothing was done for longer than that.",
}
"""What the exit statuses of all commands mean."""


def commands_reference() -> str:
    """All commands with their arguments and options, as typer documents them."""
    from flows.cli.main import app

    return "# Command line\n\n" + _commands("qmri", app)


def settings_reference() -> str:
    """All ``QMRI_`` environment variables: type, default and meaning."""
    from flows.settings import CREDENTIALS, PREFIX, Settings

    rows = [
        [f"`{PREFIX}{name.upper()}`", _type(field), _default(field.default), _words(field.description or "")]
        for name, field in Settings.model_fields.items()
    ]
    known = {row[0] for row in rows}
    rows += [
        [f"`{variable}`", *kind, f"{meaning} As the option `{option}`."]
        for variable, option, kind, meaning in dict.fromkeys(_variables())
        if f"`{variable}`" not in known
    ]
    rows += [[f"`{variable}`", "text", "unset", meaning] for variable, meaning in CREDENTIALS.items()]
    text = (
        "An option of a command, or a parameter of a deployment's run, comes before the variable. An empty variable "
        "counts as unset. A deployment reads the variables of the worker's environment, and needs absolute paths."
    )
    return f"# Settings\n\n{text}\n\n" + _table(("variable", "type", "default", "meaning"), sorted(rows))


def states_reference() -> str:
    """Every status and reason of the catalogue, and what it means."""
    from flows.ingest.problems import FILE_REASONS
    from qmri_core.series.remarks import MEANINGS as REMARKS
    from qmri_core.series.remarks import RemarkKind
    from storage.store.schema import MEANINGS, Reason, Status

    parts = [
        f"## {title}\n\n" + _table(("word", "meaning"), [[f"`{word}`", _words(MEANINGS[word])] for word in words])
        for title, words in (("Statuses of a session", Status), ("Reasons of a session or a series", Reason))
    ]
    remarks = _table(
        ("word", "meaning", "what to do"), [[f"`{kind}`", *map(_words, REMARKS[kind])] for kind in RemarkKind]
    )
    parts.append(f"## Remarks on a session\n\n{remarks}")
    files = _table(("word", "meaning"), [[f"`{word}`", meaning] for word, meaning in FILE_REASONS.items()])
    return "# Statuses and reasons\n\n" + "\n".join([*parts, f"## Further reasons of files\n\n{files}"])


def decisions_reference() -> str:
    """The codes of decisions, and what each means."""
    from storage.store.decisions.codes import MEANINGS, Ground, Scope, Verdict

    parts = [
        f"## {title}\n\n" + _table(("code", "meaning"), [[f"`{code}`", _words(MEANINGS[code])] for code in codes])
        for title, codes in (("Verdicts", Verdict), ("Scopes", Scope), ("Reasons", Ground))
    ]
    return "# Codes of decisions\n\n" + "\n".join(parts)


def exit_statuses_reference() -> str:
    """What the exit statuses of all commands mean."""
    rows = [[str(status), meaning] for status, meaning in EXIT_STATUSES.items()]
    return "# Exit statuses\n\n" + _table(("status", "meaning"), rows)


PAGES: Mapping[str, Callable[[], str]] = {
    "commands.md": commands_reference,
    "settings.md": settings_reference,
    "states.md": states_reference,
    "decisions.md": decisions_reference,
    "exit-statuses.md": exit_statuses_reference,
}
"""Pages of the reference by the names of their files."""


def pages() -> dict[str, str]:
    """Text of each page by the name of its file."""
    return {name: page() for name, page in PAGES.items()}


def _commands(name: str, application: typer.Typer) -> str:
    command = typer.main.get_command(application)
    context = command.make_context(name, [], resilient_parsing=True)
    return get_docs_for_click(obj=command, ctx=context, name=name, indent=1)  # type: ignore[arg-type]


def _variables() -> Iterator[tuple[str, str, tuple[str, str], str]]:
    """Variable, option, type and default, and help of every option that can come from the environment."""
    from flows.cli.main import app

    for command in _with_all_below(typer.main.get_command(app)):
        for parameter in command.params:
            if variable := getattr(parameter, "envvar", None):
                kind = ("true or false", "false") if getattr(parameter, "is_flag", False) else ("text", "unset")
                yield str(variable), parameter.opts[0], kind, str(getattr(parameter, "help", ""))


def _with_all_below(command: Any) -> Iterator[Any]:  # noqa: ANN401 - typer's own command, with or without commands below
    yield command
    for below in getattr(command, "commands", {}).values():
        yield from _with_all_below(below)


def _type(field: FieldInfo) -> str:
    kind = next((kind for kind in get_args(field.annotation) if kind is not type(None)), field.annotation)
    bare = getattr(kind, "__origin__", kind)  # of a type with bounds
    return _TYPES.get(str(getattr(bare, "__name__", bare)), str(bare))


_TYPES = {"Path": "path", "str": "text", "int": "number", "float": "number", "bool": "true or false", "Literal": "text"}


def _default(value: object) -> str:
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _words(text: str) -> str:
    """A docstring's text in Markdown, on one line."""
    return " ".join(text.replace("``", "`").split())


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def write_pages(
    folder: Annotated[Path, typer.Argument(help="Folder to write the pages to.", show_default=False)],
) -> None:
    """Write the pages of the reference."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    typer.run(write_pages)
