"""The image, built by podman and run: by whom it may be run, how large it is, and what a change of the code rebuilds.

A quarter of an hour on two cores for the first build, with the base; five minutes from then on.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.podman import IMAGE, Podman, cache, context_of, layers, needs_podman

pytestmark = [pytest.mark.soak, pytest.mark.timeout(5400), needs_podman]

GIGABYTE = 10**9
SOMEBODY = 4711
"""A user whom nothing in the image knows."""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return context_of("HEAD", tmp_path_factory.mktemp("context") / "clone")


@pytest.fixture(scope="module")
def podman(context: Path) -> Podman:
    """Podman with the image."""
    engine = Podman(cache())
    engine.make_base()
    engine.build(context)
    return engine


def test_size_and_time_to_start(podman: Podman, capsys: pytest.CaptureFixture[str]) -> None:
    size = int(podman("image", "inspect", "--format", "{{.Size}}", IMAGE)) / GIGABYTE
    begin = time.monotonic()
    podman("run", "--rm", "--network", "none", IMAGE, "true")
    engine = time.monotonic() - begin
    assert "qmri [OPTIONS] COMMAND" in podman("run", "--rm", "--network", "none", IMAGE)
    with capsys.disabled():
        print(f"\n{size:.2f} GB; `true` in {engine:.1f} s, both in {time.monotonic() - begin:.1f} s")
    assert size < 2.9  # 2.71 on 2026-11-30; with CUDA's libraries it is several more


def test_nothing_of_this_machine_is_in_the_image(podman: Podman) -> None:
    def inside(script: str) -> str:
        return podman("run", "--rm", "--network", "none", "--user", "root", IMAGE, "sh", "-c", script).strip()

    assert (
        inside("pip config list; ls -A /mnt; for f in /etc/pip.conf /root/.pip; do [ ! -e $f ] || echo $f; done") == ""
    )
    assert inside("env | grep -i -E 'proxy|pip|index'; true") == ""
    assert inside("ls /opt") == "qmri"
    base = podman(
        "run", "--rm", "--network", "none", "python:3.11-slim", "sha256sum", "/etc/ssl/certs/ca-certificates.crt"
    )
    assert inside("sha256sum /etc/ssl/certs/ca-certificates.crt") == base.strip()
    assert "torch-index" not in podman("history", "--no-trunc", IMAGE)
    assert "+cpu" in inside("python -c 'import torch; print(torch.__version__)'")


@pytest.mark.parametrize("user", [1000, SOMEBODY])
def test_the_demo_runs_for_any_user_on_a_root_that_is_read_only(user: int, podman: Podman, tmp_path: Path) -> None:
    """Minutes."""
    out = tmp_path / "out"
    out.mkdir()
    os.chown(out, user, user)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    said = podman(
        *("run", "--rm", "--read-only", "--network", "none", "--user", f"{user}:{user}", "--cap-drop", "all"),
        *("--volume", f"{out}:/data/out", IMAGE),
        *("qmri", "demo", "--sessions", 2, "--groups", 1, "--resolution", 4, "--out", "/data/out/demo"),
    )
    assert (out / "demo" / "report" / "report.html").is_file(), said
    owners = {path.stat().st_uid for path in out.rglob("*")}
    assert owners == {user}


def test_a_change_of_the_code_makes_only_the_last_layers_anew(podman: Podman, context: Path) -> None:
    """Of code, README and licence alike."""
    before = layers(podman)
    module = context / "flows" / "__init__.py"
    module.write_text(module.read_text() + "\nCHANGED = True\n")
    for name in ("README.md", "LICENSE"):
        with (context / name).open("a") as file:
            file.write("\nChanged.\n")
    begin = time.monotonic()
    podman.build(context)
    assert time.monotonic() - begin < 600
    after = layers(podman)
    assert before != after
    assert before[:3] == after[:3]  # the base, its user, the libraries
    sizes = sorted(part["size"] for part in json.loads(podman("history", "--format", "json", IMAGE)))
    assert sum(sizes[:-2]) < 0.05 * GIGABYTE  # all but the base and the libraries
    printed = podman("run", "--rm", "--network", "none", IMAGE, "python", "-c", "import flows; print(flows.CHANGED)")
    assert printed.strip() == "True"
