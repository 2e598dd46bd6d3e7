"""Tested versions: writes ``constraints.txt``, or shows in which versions an environment differs from it.

    python .ci/constraints.py PYTHON [PYTHON ...]
    python .ci/constraints.py

With interpreters: writes what pip takes today on each of them for the package and all extras; nothing is installed.
Without: prints each version of the environment that runs this which is not the one of ``constraints.txt``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"

LEFT_OUT = re.compile(r"qmri-cohort|nvidia-.*|cuda-.*|triton|pip")

HEADER = """\
# Versions with which everything is tested ({pythons}): made by `make constraints`, not by hand.
#
#   pip install --constraint constraints.txt ...
#
# PyTorch's CUDA libraries (nvidia-*, cuda-*, triton) are left out: each build of torch names the releases that it needs
# itself, and the CPU build needs none. So this file serves both.
"""

Version = tuple[int, int]
"""Of Python: major and minor."""


def canonical(name: str) -> str:
    """Name of a distribution as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def run(*command: str) -> None:
    """Everything that is said goes to standard error."""
    subprocess.run(command, check=True, stdout=sys.stderr)  # noqa: S603 - our own command lines


def resolve(python: str) -> tuple[Version, dict[str, str]]:
    """Python version of an interpreter, and the newest versions of everything that pip takes there."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    package = f"{ROOT}[{','.join(extras)}]"
    with tempfile.TemporaryDirectory() as folder:
        run(python, "-m", "venv", folder)
        install = (f"{folder}/bin/python", "-m", "pip", "--quiet", "install")
        run(*install, "--upgrade", "pip")
        run(*install, "--dry-run", "--ignore-installed", "--report", f"{folder}/report.json", package)
        report = json.loads(Path(f"{folder}/report.json").read_text())
    major, minor = report["environment"]["python_version"].split(".")
    chosen = [item["metadata"] for item in report["install"]]
    return (int(major), int(minor)), {canonical(item["name"]): item["version"].split("+")[0] for item in chosen}


def markers(pythons: list[Version]) -> Iterator[str]:
    """For each Python that was tried, in order, what selects it and those up to the next one."""
    for place, (major, minor) in enumerate(pythons):
        lower = f'python_version >= "{major}.{minor}"' if place else ""
        upper = 'python_version < "{}.{}"'.format(*pythons[place + 1]) if place + 1 < len(pythons) else ""
        yield " and ".join(part for part in (lower, upper) if part)


def merged(resolved: Mapping[Version, Mapping[str, str]]) -> list[str]:
    """Lines of the constraints file: a marker only where versions differ between Pythons.

    Parameters
    ----------
    resolved
        For each Python version, the version of each distribution.
    """
    pythons = sorted(resolved)
    lines = []
    for name in sorted({name for versions in resolved.values() for name in versions}):
        if LEFT_OUT.fullmatch(name):
            continue
        versions = {python: resolved[python][name] for python in pythons if name in resolved[python]}
        if len(set(versions.values())) == 1:
            lines.append(f"{name}=={next(iter(versions.values()))}")
            continue
        selecting = dict(zip(versions, markers(list(versions)), strict=True))
        lines += [f"{name}=={version} ; {selecting[python]}" for python, version in versions.items()]
    return lines


def tested(text: str, python: Version) -> dict[str, str]:
    """Versions that a constraints file of this kind names for one Python."""
    versions = {}
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        pin, _, marker = line.partition(" ; ")
        name, _, version = pin.partition("==")
        bounds = re.findall(r'(>=|<) "(\d+)\.(\d+)"', marker)
        if all((python >= (int(a), int(b))) == (sign == ">=") for sign, a, b in bounds):
            versions[name] = version
    return versions


def differences(installed: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """One line for each installed distribution of another version than the tested one."""
    return [
        f"{name} {version} (tested: {expected.get(name, 'none')})"
        for name, version in sorted(installed.items())
        if not LEFT_OUT.fullmatch(name) and version.split("+")[0] != expected.get(name)
    ]


def main(pythons: list[str]) -> None:
    """Write the file, or print the differences."""
    if pythons:
        resolved = dict(resolve(python) for python in pythons)
        names = " and ".join("Python {}.{}".format(*version) for version in sorted(resolved))
        CONSTRAINTS.write_text(HEADER.format(pythons=names) + "\n" + "\n".join(merged(resolved)) + "\n")
        return
    installed = {canonical(item.metadata["Name"]): item.version for item in distributions()}
    found = differences(installed, tested(CONSTRAINTS.read_text(), sys.version_info[:2]))
    sys.stdout.write(f"versions other than those of {CONSTRAINTS.name}:\n" + "\n".join(found or ["none"]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
