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
