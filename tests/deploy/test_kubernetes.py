"""The manifests of Kubernetes: what the API server and the Dask operator ask of them.

No package of PyPI, npm or Debian 12 has an API server, so none is asked: they are held to its published schemas.
These, and the operator's own functions, come from libraries that are no part of the environment; the soak test brings
them into one beside it and runs there what is skipped here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from flows.cluster.clusters import ClusterError
from flows.cluster.kinds import started_cluster
from flows.settings import Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
BESIDE = "pip install kubernetes-validate 'qmri-cohort[kubernetes]'"
"""What the tests of schemas need."""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def the_cluster() -> dict[str, Any]:
    (cluster,) = documents("cluster.yaml")
    return cluster


DASHBOARD = "http-dashboard"
"""Port of the scheduler by whose name the operator's client and its autoscaler look for it."""


def ports(container: dict[str, Any]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def test_the_cluster_of_pods_is_such_that_the_operator_takes_it() -> None:
    """What the operator's own specification has (`make_cluster_spec`), and what Kubernetes demands of its parts."""
    cluster = the_cluster()
    worker, scheduler = cluster["spec"]["worker"], cluster["spec"]["scheduler"]
    for part in (worker, scheduler):  # a worker is a Deployment, whose pods are started again, always
        assert part["spec"].get("restartPolicy", "Always") == "Always"
        volumes = {volume["name"] for volume in part["spec"].get("volumes", [])}
        for container in part["spec"]["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
    (container,) = scheduler["spec"]["containers"]
    assert ports(container) == {"tcp-comm": 8786, DASHBOARD: 8787}
    assert container["readinessProbe"]["tcpSocket"]["port"] in ports(container)
    served = {port["name"]: port for port in scheduler["service"]["ports"]}
    assert set(served) == {"tcp-comm", DASHBOARD}
    for name, port in served.items():
        assert (port["targetPort"], port["port"]) == (name, ports(container)[name])
    name = cluster["metadata"]["name"]
    assert scheduler["service"]["selector"] == {
        "dask.org/cluster-name": name,
        "dask.org/component": "scheduler",
    }
    assert "$(DASK_WORKER_NAME)" in worker["spec"]["containers"][0]["args"]


@pytest.mark.parametrize(("workers", "maximum"), [(None, 8), (3, 3)])
def test_pods_are_adapted_as_the_operators_cluster_allows(
    workers: int | None, maximum: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a class of the signatures of dask-kubernetes 2025.1 to 2026.3, which takes nothing else."""
    adapted: list[tuple[int | None, int | None]] = []

    class KubeCluster:
        def __enter__(self) -> KubeCluster:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def adapt(self, minimum: int | None = None, maximum: int | None = None) -> None:
            adapted.append((minimum, maximum))

    package, module = ModuleType("dask_kubernetes"), ModuleType("dask_kubernetes.operator")
    module.KubeCluster = KubeCluster  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_kubernetes", package)
    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", module)
    with started_cluster(Settings.model_construct(scheduler="kubernetes", workers=workers)) as cluster:
        assert isinstance(cluster, KubeCluster)
    assert adapted == [(1, maximum)]
    secured = Settings.model_construct(
        scheduler="kubernetes", tls_ca=Path("ca"), tls_cert=Path("cert"), tls_key=Path("key")
    )
    with pytest.raises(ClusterError, match="take no certificates; unset QMRI_TLS_CA"), started_cluster(secured):
        pass


def of_the_operator() -> dict[str, Any]:
    """The objects that the operator makes of the cluster file, and hands to the API server."""
    controller = pytest.importorskip("dask_kubernetes.operator.controller.controller", reason=BESIDE)
    cluster = the_cluster()
    name, spec = cluster["metadata"]["name"], cluster["spec"]
    common: dict[str, Any] = {"annotations": {}, "labels": {}}
    return {
        "scheduler": controller.build_scheduler_deployment_spec(name, deepcopy(spec["scheduler"]["spec"]), **common),
        "service": controller.build_scheduler_service_spec(name, deepcopy(spec["scheduler"]["service"]), **common),
        "worker": controller.build_worker_deployment_spec(
            f"{name}-default", "here", name, "0123456789", deepcopy(spec["worker"]["spec"]), **common
        ),
    }


def refusals(manifest: dict[str, Any]) -> list[str]:
    """What Kubernetes' published schemas of the newest version say against a manifest; unknown names are errors."""
    schemas = pytest.importorskip("kubernetes_validate", reason=BESIDE)
    try:
        schemas.validate(manifest, schemas.latest_version(), strict=True)
    except schemas.ValidationError as error:
        return [error.message]
    return []


def test_the_worker_of_prefect_satisfies_the_schemas() -> None:
    kinds = {manifest["kind"]: refusals(manifest) for manifest in documents("prefect-worker.yaml")}
    assert kinds == {"ServiceAccount": [], "Role": [], "RoleBinding": [], "Deployment": []}


@pytest.mark.parametrize("part", ["scheduler", "service", "worker"])
def test_what_the_operator_makes_of_the_cluster_satisfies_the_schemas(part: str) -> None:
    assert refusals(of_the_operator()[part]) == []


@pytest.mark.parametrize(
    ("part", "path", "value"),
    [
        ("worker", ["spec", "template", "spec", "containers", 0, "resource"], {"limits": {"memory": "4Gi"}}),
        ("worker", ["spec", "template", "spec", "volumes", 0, "name"], 5),
        ("service", ["spec", "ports", 0, "port"], "http"),
        ("scheduler", ["spec", "template", "spec", "containers", 0, "args"], "dask scheduler"),
    ],
)
def test_the_schemas_see_what_is_misspelt_or_of_another_type(part: str, path: list[Any], value: object) -> None:
    broken = of_the_operator()[part]
    place = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert len(refusals(broken)) == 1


def test_the_cluster_has_what_the_operators_own_has_and_no_key_that_it_does_not_know() -> None:
    operator = pytest.importorskip("dask_kubernetes.operator", reason=BESIDE)
    from dask_kubernetes.operator.validation import validate_cluster_name

    cluster = the_cluster()
    theirs = operator.make_cluster_spec(name="qmri")
    validate_cluster_name(cluster["metadata"]["name"])
    assert (cluster["apiVersion"], cluster["kind"]) == (theirs["apiVersion"], theirs["kind"])
    mine, his = (spec["spec"]["scheduler"] for spec in (cluster, theirs))
    assert ports(mine["spec"]["containers"][0]) == ports(his["spec"]["containers"][0])
    assert mine["service"] == his["service"]
    folder = Path(operator.__file__).parent / "customresources"
    known = yaml.safe_load((folder / "templates.yaml").read_text())["definitions"]
    assert set(cluster["spec"]) <= set(known["dask.k8s.api.v1.DaskCluster"]["properties"]["spec"]["properties"])
    for part in ("scheduler", "worker"):
        definition = known[f"dask.k8s.api.v1.Dask{part.capitalize()}"]
        assert set(cluster["spec"][part]) <= set(definition["properties"])
        assert set(definition.get("required", [])) <= set(cluster["spec"][part])


@pytest.fixture
def environment_beside(tmp_path: Path) -> Path:
    """Python of an environment that has the libraries of this one, and the two that it has not."""
    folder = tmp_path / "beside"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (requirement,) = re.findall(r'^kubernetes = \["(.+)"\]$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    subprocess.run([*pip, requirement, "kubernetes-validate"], check=True)
    return python


@pytest.mark.soak
def test_nothing_is_skipped_where_the_libraries_are(environment_beside: Path) -> None:
    """Two minutes, and 22 MB from the package registry."""
    done = subprocess.run(
        [environment_beside, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not soak and not slow"]
        + [str(Path(__file__).with_name(name)) for name in (Path(__file__).name, "test_deploy_files.py")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1], done.stdout
