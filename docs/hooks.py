"""What mkdocs takes from the code and from files beside it, so that nothing stands twice.

A line ``<!-- generated: NAME -->`` of a page becomes what `GENERATED` makes of the code. The files of `PLACES` lie
beside what they are of, and are pages too. Links are those of the repository, where any viewer can follow them; in the
site they lead to the pages.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from flows.cli.reference import (
    commands_reference,
    decisions_reference,
    exit_statuses_reference,
    settings_reference,
    states_reference,
)
from qmri_core.tissues import POPULATION_VALUES
from storage.store.schema import AFFINE, BIAS_FIELDS, CATALOGUE, DIGEST, IMAGES, PER_SESSION, Variable

ROOT = Path(__file__).resolve().parents[1]

PLACES = {
    ROOT / "qmri_core/weights/MODEL_CARD.md": "model-card.md",
    ROOT / "qmri_core/weights/travelling_heads.png": "travelling_heads.png",
    ROOT / "qmri_core/simulation/pictures/CONTRAST.md": "explanation/contrast.md",
    ROOT / "qmri_core/simulation/pictures/vendors.png": "explanation/vendors.png",
    ROOT / "CHANGELOG.md": "changelog.md",
}
"""Files outside of the folder of the documentation, by their place in it."""


def schema_table(variables: Iterable[Variable]) -> str:
    """Rows of the store's schema as a Markdown table."""
    lines = ["| variable | dimensions | type | unit | meaning |", "|---|---|---|---|---|"]
    for variable in variables:
        attributes = variable.attributes
        flags = zip(attributes.get("flag_values", ()), attributes.get("flag_meanings", "").split(), strict=True)
        meaning = "; ".join([variable.long_name, *(f"{value}: {flag.replace('_', ' ')}" for value, flag in flags)])
        dimensions = ", ".join(variable.dims)
        lines.append(f"| `{variable.name}` | {dimensions} | {variable.dtype} | {variable.units} | {meaning} |")
    return "\n".join(lines)


def population_table() -> str:
    """What calibration rests on, and what that was judged from, as a Markdown table."""
    lines = [
        "| T | tissue | what | value | people, ages | source | checked | used |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in POPULATION_VALUES:
        number = "" if math.isnan(one.value) else f"{one.value:g}"
        number += "" if math.isnan(one.sd) else f" ± {one.sd:g}"
        of_people = ", ".join(part for part in (str(one.people or ""), one.ages) if part)
        source = "; ".join(part for part in (one.source, one.method, one.note) if part)
        cells = [
            "all" if one.field_strength is None else f"{one.field_strength:g}",
            one.tissue,
            f"{one.quantity.upper()} {one.what}".strip(),
            number,
            of_people,
            source,
            one.checked,
            "yes" if one.is_used else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands_reference,
    "settings": settings_reference,
    "states": states_reference,
    "decisions": decisions_reference,
    "exit-statuses": exit_statuses_reference,
    "images": lambda: schema_table((*IMAGES, AFFINE, *BIAS_FIELDS, DIGEST)),
    "values-per-session": lambda: schema_table(PER_SESSION),
    "catalogue": lambda: schema_table(CATALOGUE),
    "population": population_table,
}
"""What stands in the place of ``<!-- generated: NAME -->``; its title is left to the page."""


def generated(name: str) -> str:
    """Markdown of one generated part, without its title, and without the list of commands whose help is cut short."""
    text = re.sub(r"\A# .*\n", "", GENERATED[name]())
    return re.sub(r"^\*\*Commands\*\*:\n\n(\* .*\n)+", "", text, flags=re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:  # noqa: ANN401 - mkdocs' own configuration
    """Add the files that lie elsewhere."""
    for path, place in PLACES.items():
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Put the generated parts where the page asks for them, and turn links of the repository to pages."""
    whole = re.sub(r"^<!-- generated: ([\w-]+) -->$", lambda match: generated(match[1]), markdown, flags=re.MULTILINE)
    here = Path(str(page.file.abs_src_path)).parent
    start = PurePosixPath(page.file.src_uri).parent
    return re.sub(r"\]\((?![a-z]+:|#)([^)#\s]+)", lambda match: f"]({_in_site(here / match[1], start)}", whole)


def _in_site(target: Path, start: PurePosixPath) -> str:
    """Link from a page in the folder ``start`` to the place of a file of the repository."""
    path = target.resolve()
    place = PLACES.get(path) or path.relative_to(ROOT / "docs").as_posix()
    return os.path.relpath(place, start)
