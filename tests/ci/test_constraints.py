"""The file of tested versions says for each Python what pip has taken there, and an environment is compared with it."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

PATH = Path(__file__).parents[2] / ".ci" / "constraints.py"
PYTHONS = [(3, 11), (3, 13), (3, 14)]
VERSIONS = st.dictionaries(st.sampled_from(["numpy", "zarr", "icechunk", "tomli"]), st.sampled_from(["1.0", "2.3.1"]))


@pytest.fixture(scope="module")
def module() -> Any:
    spec = spec_from_file_location("constraints", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@given(resolved=st.dictionaries(st.sampled_from(PYTHONS), VERSIONS, min_size=1))
def test_for_each_python_pip_reads_what_was_resolved_there(
    module: Any, resolved: dict[tuple[int, int], dict[str, str]]
) -> None:
    lines = module.merged(resolved)
    for (major, minor), versions in resolved.items():
        chosen: dict[str, str] = {}
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"python_version": f"{major}.{minor}"}):
                assert requirement.name not in chosen
                chosen[requirement.name] = str(requirement.specifier).removeprefix("==")
        assert versions.items() <= chosen.items()
        assert chosen == module.tested("# made by\n\n" + "\n".join(lines), (major, minor))


def test_a_python_between_two_takes_the_set_of_the_older(module: Any) -> None:
    lines = module.merged({(3, 11): {"icechunk": "1.1.21"}, (3, 13): {"icechunk": "2.3.0"}})
    assert lines == ['icechunk==1.1.21 ; python_version < "3.13"', 'icechunk==2.3.0 ; python_version >= "3.13"']
    assert module.tested("\n".join(lines), (3, 12)) == {"icechunk": "1.1.21"}


def test_what_a_build_of_torch_brings_is_left_out(module: Any) -> None:
    resolved = {
        "torch": "2.14.1",
        "nvidia-cublas": "13.1",
        "cuda-bindings": "13.5",
        "triton": "3.8",
        "qmri-cohort": "1",
    }
    assert module.merged({(3, 11): resolved}) == ["torch==2.14.1"]


def test_other_versions_are_named_beside_the_tested_ones(module: Any) -> None:
    installed = {"torch": "2.14.1+cpu", "numpy": "2.5.5", "zarr": "3.1.6", "new": "1", "nvidia-cublas": "13.1"}
    expected = {"torch": "2.14.1", "numpy": "2.4.6", "zarr": "3.1.6"}
    assert module.differences(installed, expected) == ["new 1 (tested: none)", "numpy 2.5.5 (tested: 2.4.6)"]
