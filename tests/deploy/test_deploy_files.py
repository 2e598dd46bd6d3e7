"""The files in ``deploy`` say what the code does; what no engine is here for is read, not run."""

from __future__ import annotations

import inspect
import os
import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import dask
import pytest
import typer
import yaml
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.cli.dask_worker import main as dask_worker
from prefect.settings import Settings as PrefectSettings

from flows.cli.main import app
from flows.cluster.clusters import ClusterError, dask_client, inference_resource, run_bounded
from flows.cluster.kinds import ADAPTIVE, CONFIGURATION, ONE_THREAD
from flows.prefect_plugin import DEPLOYMENTS, with_full_name
from flows.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def load(name: str) -> Any:
    (document,) = yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8"))
    return document


def test_flows_and_deployments_carry_the_same_names() -> None:
    deployments = load("prefect.yaml")["deployments"]
    assert [deployment["name"] for deployment in deployments] == list(DEPLOYMENTS)
    assert len({tag for deployment in deployments for tag in deployment["tags"]}) == 1 + len(DEPLOYMENTS)
    for deployment in deployments:
        module, function = deployment["entrypoint"].rsplit(".", 1)
        flow = getattr(import_module(module), function)
        assert flow.name == deployment["name"]
        assert flow.parameters.required in ([], None)
        assert deployment["tags"][0] == "qmri"
        assert len(Path(import_module(module).__file__ or "").read_text().splitlines()) <= 60


def test_the_night_has_a_time_a_zone_and_room_for_one() -> None:
    (night,) = [each for each in load("prefect.yaml")["deployments"] if each["name"] == "reprocess-nightly"]
    assert night["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    (schedule,) = night["schedules"]
    assert re.fullmatch(r"\d+ \d+ \* \* \*", schedule["cron"])
    assert "/" in schedule["timezone"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("prefect deployment run ingest-cohort", "prefect deployment run ingest-cohort/ingest-cohort"),
        ("prefect deployment run --watch infer-maps", "prefect deployment run --watch infer-maps/infer-maps"),
        (
            "prefect --profile x deployment run train-model -p steps=2",
            "prefect --profile x deployment run train-model/train-model -p steps=2",
        ),
    ],
)
def test_a_bare_name_is_completed(typed: str, meant: str) -> None:
    assert with_full_name(typed.split()) == meant.split()


@pytest.mark.parametrize(
    "typed",
    [
        "prefect deployment run ingest-cohort/ingest-cohort",
        "prefect deployment run somebody-elses",
        "prefect deployment inspect ingest-cohort",
        "prefect deployment run other/x --flow-run-name ingest-cohort",
        "prefect flow-run ls",
        "python -m prefect.engine",
        "qmri run ingest-cohort",
        "",
    ],
)
def test_everything_else_stays_as_it_was_typed(typed: str) -> None:
    assert with_full_name(typed.split()) == typed.split()


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for name, part in tree.items() for k, v in flat(part, f"{prefix}.{name}".strip(".")).items()}


def test_workers_started_by_hand_are_set_as_those_that_a_run_starts() -> None:
    by_hand = flat(load("dask/workers.yaml"))
    for name, value in CONFIGURATION.items():
        if name.startswith(
            ("distributed.worker.memory", "distributed.worker.profile", "distributed.nanny", "distributed.sch")
        ):
            assert by_hand[name] == value, name
    assert all(by_hand[f"distributed.nanny.pre-spawn-environ.{name}"] == 1 for name in ONE_THREAD)


def commands(tree: Any) -> Iterator[list[str]]:
    """All commands of containers, in compose and Kubernetes files."""
    if isinstance(tree, dict):
        for key in ("command", "args"):
            if isinstance(tree.get(key), list):
                yield [str(word) for word in tree[key]]
        for part in tree.values():
            yield from commands(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from commands(part)


@pytest.mark.parametrize("name", ["compose/compose.yaml", "kubernetes/cluster.yaml", "kubernetes/prefect-worker.yaml"])
def test_containers_run_commands_and_settings_that_exist(name: str) -> None:
    text = (DEPLOY / name).read_text(encoding="utf-8")
    found = [command for document in yaml.safe_load_all(text) for command in commands(document)]
    assert found
    for program, *arguments in found:
        assert program in {"prefect", "dask", "sh", "qmri"}
        if program == "dask":
            entry = {"scheduler": dask_scheduler, "worker": dask_worker}[arguments[0]]
            known = {option for parameter in entry.params for option in (*parameter.opts, *parameter.secondary_opts)}
            assert {word for word in arguments if word.startswith("--")} <= known
        if program == "qmri":
            command = typer.main.get_command(app).commands[arguments[0]]  # type: ignore[attr-defined]
            command.make_context(arguments[0], arguments[1:])  # raises for what it does not know
    variables = set(re.findall(r"\b(QMRI_[A-Z_]+)(?=:|, value)", text))
    assert {f"QMRI_{field.upper()}" for field in Settings.model_fields} >= variables - {"QMRI_IMAGE"} - {
        v for v in variables if v.startswith("QMRI_HOST")
    }
    for path in re.findall(r"/app/(deploy/[\w./-]+)", text):
        assert (ROOT / path).is_file(), path


def test_compose_waits_for_what_it_needs() -> None:
    services = load("compose/compose.yaml")["services"]
    assert set(services) == {
        "postgres", "prefect-server", "deploy", "prefect-worker", "dask-scheduler", "dask-worker",
        "metrics", "prometheus",
    }  # fmt: skip
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
    variables = re.findall(r"\$\{(\w+)", (DEPLOY / "compose" / "compose.yaml").read_text())
    example = (DEPLOY / "compose" / "example.env").read_text()
    assert set(variables) == {line.split("=")[0] for line in example.splitlines()}


def test_the_image_copies_what_there_is() -> None:
    text = (DEPLOY / "container" / "Dockerfile").read_text()
    copied = [words for line in re.findall(r"^COPY (.*)$", text, flags=re.MULTILINE) if "--from" not in (words := line)]
    sources = {source for words in copied for source in words.split()[:-1]}
    assert {"pyproject.toml", "flows", "storage", "qmri_core", "deploy"} <= sources
    assert all((ROOT / source).exists() for source in sources)
    allowed = (DEPLOY / "container" / "Dockerfile.dockerignore").read_text().split()
    assert {f"!{source}" for source in sources} <= set(allowed)


def test_libraries_in_the_image_wait_for_nothing_but_what_names_them() -> None:
    """What this stage copies brings all libraries anew when it changes; what a package must have is there empty."""
    text = (DEPLOY / "container" / "Dockerfile").read_text()
    (stage,) = re.findall(r"AS dependencies\n(.*?)\nFROM ", text, flags=re.DOTALL)
    assert re.findall(r"^COPY (.*)$", stage, flags=re.MULTILINE) == ["pyproject.toml constraints.txt ./"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for needed in (project["readme"], *project["license-files"]):
        assert re.search(rf"touch .*\b{re.escape(needed)}\b", stage), needed
    for package in ("qmri_core", "storage", "flows"):
        assert re.search(rf"mkdir .*\b{package}\b", stage), package


def seen(_: int) -> tuple[str | None, str | None]:
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")


@pytest.mark.slow
def test_one_process_per_gpu_which_sees_that_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    with dask_client(Settings.model_construct(scheduler="gpu")) as client:
        client.wait_for_workers(2, timeout=240)
        assert inference_resource(client) == "GPU"
        assert set(client.nthreads().values()) == {1}
        found = {outcome for _, outcome in run_bounded(client, seen, range(8), resource="GPU")}
    assert found == {("3", "1"), ("GPU-5", "1")}


def test_no_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ClusterError, match="no GPU"), dask_client(Settings.model_construct(scheduler="gpu")):
        pass


@pytest.mark.parametrize(("kind", "package"), [("slurm", "dask_jobqueue"), ("kubernetes", "dask_kubernetes")])
def test_a_missing_extra_is_named(kind: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with (
        pytest.raises(ClusterError, match=rf"needs {package}: pip install 'qmri-cohort\[{kind}\]'"),
        dask_client(Settings.model_construct(scheduler=kind)),
    ):
        pass


FAKE_SBATCH = """#!/bin/sh
# starts the job at once, on this machine; from a copy, as Slurm does: the script is removed when this returns
cp "$1" "$JOBS.script"
setsid bash "$JOBS.script" > /dev/null 2>&1 &
echo $! >> "$JOBS"
echo "Submitted batch job $!"
"""
FAKE_SCANCEL = """#!/bin/sh
for job in "$@"; do kill -- "-$job" 2> /dev/null; done
"""


@pytest.mark.slow
def test_slurm_jobs_are_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With commands that stand for Slurm's: what is submitted does become a worker of one thread."""
    for name, text in (("sbatch", FAKE_SBATCH), ("scancel", FAKE_SCANCEL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JOBS", str(tmp_path / "jobs"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    configuration = load("slurm/dask.yaml")
    with (
        dask.config.set(dask.config.merge(dask.config.config, configuration)),
        dask_client(Settings.model_construct(scheduler="slurm", workers=1)) as client,
    ):
        outcomes = [outcome for _, outcome in run_bounded(client, seen, range(3))]
        assert set(client.nthreads().values()) == {1}
    assert {threads for _, threads in outcomes} == {"1"}
    assert len((tmp_path / "jobs").read_text().split()) == 1  # at most as many as there may be workers
    script = (tmp_path / "jobs.script").read_text()
    assert "#SBATCH --cpus-per-task=1" in script
    assert "#SBATCH --mem=4G" in script
    assert "--lifetime 230m" in script
    (logs,) = (tmp_path / "qmri-logs").iterdir()
    assert f"#SBATCH -o qmri-logs/{logs.name}/qmri-worker-%J.out" in script  # and no slurm-N.out where the run begins
    assert "--nthreads 1" in script


@pytest.mark.parametrize(
    ("kind", "module", "name"),
    [("slurm", "dask_jobqueue", "SLURMCluster"), ("kubernetes", "dask_kubernetes.operator", "KubeCluster")],
)
def test_the_real_classes_take_what_they_are_given(kind: str, module: str, name: str) -> None:
    real = getattr(pytest.importorskip(module, reason=f"pip install 'qmri-cohort[{kind}]'"), name)
    inspect.signature(real.adapt).bind(object(), minimum=1, maximum=8, **ADAPTIVE[kind])


def test_prefects_pages_are_written_where_the_images_user_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server writes them before it serves them, into the package's folder unless it is told another."""
    text = (DEPLOY / "container" / "Dockerfile").read_text()
    (folder,) = re.findall(r"PREFECT_UI_STATIC_DIRECTORY=(\S+)", text)
    server = load("compose/compose.yaml")["services"]["prefect-server"]
    assert server["environment"]["PREFECT_UI_STATIC_DIRECTORY"] == folder
    assert folder.startswith("/tmp/")  # noqa: S108 - every user of every image can write there
    monkeypatch.setenv("PREFECT_UI_STATIC_DIRECTORY", folder)
    assert PrefectSettings().server.ui.static_directory == folder  # the setting is still called so
