"""RO-Crate metadata of a folder of tables (https://w3id.org/ro/crate)."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

_MEDIA = {".csv": "text/csv", ".md": "text/markdown", ".parquet": "application/vnd.apache.parquet"}
_NAMES = {
    "sessions": "Sessions with their acquisition, quality and versions",
    "values": "Values of tissues by session and map",
    "groups": "Groups of a scanner with a protocol",
    "exclusions": "Sessions that are here and that are not, by reason",
    "data_dictionary": "Columns of all tables, with units",
    "datasheet": "Datasheet",
    "model_card": "Model card of the weights",
}


def write_crate(folder: Path, *, snapshot: str, time: datetime) -> None:
    """Write ``ro-crate-metadata.json``: every file of the folder, and the software that made them.

    Parameters
    ----------
    snapshot, time
        Of the cohort; the crate is as old as it.
    """
    from rocrate.model.softwareapplication import SoftwareApplication
    from rocrate.rocrate import ROCrate

    crate: Any = ROCrate()
    crate.name = "Quantitative values from conventional MRI"
    crate.description = f"T1, T2 and proton density of brain tissues by session; snapshot {snapshot} of a cohort"
    crate.datePublished = time
    software = SoftwareApplication(
        crate, "#qmri-cohort", properties={"name": "qmri-cohort", "version": version("qmri-cohort")}
    )
    crate.add(software)
    for path in sorted(folder.iterdir()):
        if path.suffix not in _MEDIA:
            continue
        properties = {
            "name": _NAMES[path.stem],
            "encodingFormat": _MEDIA[path.suffix],
            "contentSize": str(path.stat().st_size),
        }
        crate.add_file(path, dest_path=path.name, properties=properties)
    action = {
        "name": "export-tables",
        "object": {"@id": f"#snapshot-{snapshot}"},
        "endTime": time.isoformat(),
    }
    crate.add_action(software, identifier="#export", result=[crate.root_dataset], properties=action)
    crate.metadata.write(folder)
