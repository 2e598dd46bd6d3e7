"""Imports point one way: flows -> storage -> qmri_core; and some libraries belong to one layer only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT: dict[str, set[str]] = {"qmri_core": set(), "storage": {"qmri_core"}, "flows": {"qmri_core", "storage"}}

FORBIDDEN: dict[str, set[str]] = {
    "qmri_core": {"prefect", "dask", "distributed", "zarr", "icechunk", "pydicom", "nibabel"},
    "storage": {"prefect", "distributed", "torch"},
}


ORDER: dict[str, list[str]] = {
    "qmri_core": [
        *("tissues", "statistics", "versions", "devices", "series", "physics", "preprocessing", "calibration"),
        *("simulation", "mapping", "baseline", "evaluation", "training", "weights", "analysis"),
    ],
    "storage": ["pseudonyms", "nifti_image", "source", "store", "exports", "simulated"],
    "storage/source": [
        *(
            "damage",
            "origin",
            "full_disk",
            "unread",
            "files",
            "dates",
            "series",
            "dicom",
            "stacks",
            "assume_file",
            "siblings",
            "bids",
            "labels",
            "visits",
        ),
        *("scans", "index", "kept", "server", "headers", "discovery"),
    ],
    "flows": [
        *(
            "settings",
            "progress",
            "errors",
            "prefect_plugin",
            "selection",
            "tables",
            "pictures",
            "cluster",
            "calibration",
            "maps",
            "pool",
        ),
        *(
            "statistics",
            "evaluation",
            "training",
            "analysis",
            "ingest",
            "linkage",
            "new_key",
            "exporting",
            "simulate",
            "night",
            "operations",
            "report",
            "browser",
            "deployed",
            "cli",
        ),
    ],
}
"""Rooms of each floor, and of a room that has rooms of its own: each may import those before it."""


def imported_packages(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, in functions and for type checks too."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_downwards(package: str) -> None:
    banned = (set(MAY_IMPORT) - {package} - MAY_IMPORT[package]) | FORBIDDEN.get(package, set())
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {str(path.relative_to(ROOT)): imported_packages(path) & banned for path in files}
    assert {path: names for path, names in found.items() if names} == {}


def test_every_import_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("import torch.nn as nn\nfrom zarr.codecs import X\ndef f():\n    import dask, prefect\n")
    assert imported_packages(path) == {"torch", "zarr", "dask", "prefect"}


def imported_rooms(path: Path, package: str) -> set[str]:
    """Rooms of its own floor that a file imports anywhere."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    floor = package.replace("/", ".")
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            is_floor = node.module == floor
            modules += [f"{floor}.{alias.name}" for alias in node.names] if is_floor else [node.module]
    return {module.removeprefix(f"{floor}.").split(".")[0] for module in modules if module.startswith(f"{floor}.")}


@pytest.mark.parametrize("package", ORDER)
def test_rooms_import_only_rooms_before_them(package: str) -> None:
    place = {room: number for number, room in enumerate(ORDER[package])}
    wrong = []
    for path in sorted((ROOT / package).rglob("*.py")):
        room = path.relative_to(ROOT / package).with_suffix("").parts[0]
        if room == "__init__":
            continue
        wrong += [
            f"{path.relative_to(ROOT)} imports {other}"
            for other in imported_rooms(path, package)
            if place[other] > place[room]
        ]
    assert wrong == []


def test_every_room_of_a_floor_is_in_its_order() -> None:
    for package, rooms in ORDER.items():
        found = {path.relative_to(ROOT / package).with_suffix("").parts[0] for path in (ROOT / package).rglob("*.py")}
        assert found - {"__init__"} <= set(rooms), package


def test_tests_are_found_by_the_path_of_their_module() -> None:
    """A folder of tests is a folder of the code; those named here apart."""
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    mirrors = {folder for folder in folders if folder.parts and folder.parts[0] in MAY_IMPORT}
    assert not [folder for folder in mirrors if not (ROOT / folder).is_dir()]
    assert {folder.parts[0] for folder in folders - mirrors if folder.parts} <= {"benchmarks", "ci", "deploy", "docs"}


def test_imports_within_the_project_are_absolute() -> None:
    """A relative import would escape the check above."""
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level], path


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_package_files_import_nothing_heavy(package: str) -> None:
    heavy = {"torch", "prefect", "distributed", "pandas", "xarray", "matplotlib", "SimpleITK", "icechunk", "zarr"}
    for path in (ROOT / package).rglob("__init__.py"):
        assert not imported_packages(path) & heavy, path


def test_only_the_session_boundary_catches_every_exception() -> None:
    """A bare ``except`` or ``except Exception`` elsewhere would hide faults that nobody hears of."""
    places = []
    for package in MAY_IMPORT:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ExceptHandler) and (
                    node.type is None
                    or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"})
                ):
                    places.append(str(path.relative_to(ROOT)))
    assert places == ["flows/cluster/boundary.py"]


def private_modules(path: Path) -> set[str]:
    """Modules of other packages that a file imports and that those packages call private, or may move at any time."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    modules -= {"__future__"}
    return {
        module
        for module in modules
        if module.startswith("zarr.core") or any(part.startswith("_") for part in module.split("."))
    }


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_libraries_are_used_by_their_public_modules(package: str) -> None:
    found = {str(path.relative_to(ROOT)): private_modules(path) for path in sorted((ROOT / package).rglob("*.py"))}
    assert {path: names for path, names in found.items() if names} == {}


def test_every_private_module_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "from __future__ import annotations\nfrom zarr.core.sync import sync\ndef f():\n    import a._b.c\n"
    )
    assert private_modules(path) == {"zarr.core.sync", "a._b.c"}
