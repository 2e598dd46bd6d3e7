"""Containers for tests without a registry of images: podman as root, with a store of its own.

The base image of the Dockerfile is made by debootstrap, under the name that the Dockerfile says; in a store of its own
it stands in nobody's way. Debian: ``apt-get install --no-install-recommends podman runc buildah debootstrap netavark
aardvark-dns iptables catatonit``.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.flows.end_to_end import ROOT

needs_podman = pytest.mark.skipif(
    os.geteuid() != 0 or any(shutil.which(program) is None for program in ("podman", "runc", "debootstrap")),
    reason="podman, runc and debootstrap are not installed, or this is not root",
)

BASE = "docker.io/library/python:3.11-slim"
SUITE = "bookworm"  # its Python is 3.11
IMAGE = "localhost/qmri-cohort:cpu"


def cache() -> Path:
    """Where the base, the layers and the images lie from one run to the next."""
    return Path(os.environ.get("QMRI_CONTAINERS", "~/.cache/qmri-containers")).expanduser()


class Podman:
    """Podman with its configuration and its images in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        (
            folder / "containers.conf"
        ).write_text(  # limits that a user without CAP_SYS_RESOURCE can set; runc: any cgroups
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=8192:8192"]\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            '[network]\nnetwork_backend = "netavark"\n'  # CNI, which podman prefers where it lies about, knows no names
        )
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/images"\nrunroot = "{folder}/run"\n'
        )
        self.environment = os.environ | {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        }

    def __call__(self, *arguments: object, timeout: float = 3000) -> str:
        """Output of one of podman's commands."""
        done = subprocess.run(
            ["podman", *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, (arguments, done.stdout[-3000:], done.stderr[-3000:])
        return done.stdout

    def is_healthy(self, container: str) -> bool:
        """Ask the check of health of a container."""
        command = ["podman", "healthcheck", "run", container]
        return subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode == 0

    def make_base(self) -> None:
        """Make the base image, where it is not there."""
        if self("images", "--quiet", BASE):
            return
        root = self.folder / "rootfs"
        if not (root / "made").is_file():
            shutil.rmtree(root, ignore_errors=True)
            packages = "ca-certificates,python3,python3-venv,python3-pip"
            subprocess.run(
                ["debootstrap", "--variant=minbase", f"--include={packages}", SUITE, root],
                check=True,
                capture_output=True,
            )
            (root / "usr" / "bin" / "python").symlink_to("python3")
            (root / "made").touch()
        archive = self.folder / "base.tar"
        without = ["./var/cache/apt/archives/*.deb", "./var/lib/apt/lists/*", "./made"]
        subprocess.run(
            ["tar", "-C", root, *(f"--exclude={pattern}" for pattern in without), "-cf", archive, "."], check=True
        )
        self("import", "--quiet", "-c", "ENV PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin", archive, BASE)
        archive.unlink()

    def build(self, context: Path) -> str:
        """Build the image with the CPU build of PyTorch; what was printed.

        Settings of this machine's pip reach the build as files that are mounted, and are no part of any layer.
        """
        wheel = self._torch_wheel()
        pins = context / "constraints.txt"
        version = wheel.name.split("-")[1].split("+")[0]
        pins.write_text(re.sub(r"^torch==\S+", f"torch=={version}", pins.read_text(), flags=re.MULTILINE))
        return self(
            *("build", "--network", "host", "--format", "docker", "--layers"),
            *(word for mount in self._mounts(wheel) for word in ("--volume", mount)),
            *("--build-arg", "TORCH_INDEX=file:///mnt", "--tag", IMAGE),
            *("--file", context / "deploy" / "container" / "Dockerfile", context),
        )

    def _mounts(self, wheel: Path) -> list[str]:
        """Pip's settings, its certificates and an index of PyTorch, on what is in the base: nothing stays behind."""
        certificates, home, index = "/etc/ssl/certs/ca-certificates.crt", self.folder / "home", self.folder / "index"
        lines = ["[global]", f"cert = {certificates}"]
        if url := of_pip("global.index-url"):
            lines.append(f"index-url = {url}")
        (home / ".pip").mkdir(parents=True, exist_ok=True)
        (home / ".pip" / "pip.conf").write_text("\n".join([*lines, ""]))
        (index / "torch").mkdir(parents=True, exist_ok=True)
        if not (index / "torch" / wheel.name).is_file():
            shutil.copy(wheel, index / "torch")
        (index / "torch" / "index.html").write_text(f'<a href="{wheel.name.replace("+", "%2B")}">{wheel.name}</a>')
        return [f"{certificates}:{certificates}:ro", f"{home}:/root", f"{index}:/mnt:ro"]

    def _torch_wheel(self) -> Path:
        """The newest CPU wheel of PyTorch in pip's own folders of wheels."""
        folders = of_pip("global.find-links").split()
        found = sorted(wheel for folder in folders for wheel in Path(folder).glob("torch-*+cpu-cp311-*.whl"))
        if not found:
            pytest.skip("no CPU wheel of PyTorch lies in a folder of pip's setting find-links")
        return found[-1]


def of_pip(setting: str) -> str:
    """A setting of this machine's pip; empty where there is none."""
    done = subprocess.run(["pip", "config", "get", setting], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def context_of(commit: str, folder: Path) -> Path:
    """What a fresh clone has, in a folder."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return folder


def layers(podman: Podman) -> Sequence[str]:
    """Digests of the layers of the image."""
    (image,) = json.loads(podman("image", "inspect", IMAGE))
    return list(image["RootFS"]["Layers"])
