"""Jobs in a work pool of the type kubernetes, and the manifests, without a cluster.

The test needs `TEST_PREFECT_WORKERS`: a Python of a virtual environment with `prefect-kubernetes`,
which Daybook does not install.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from daybook.errors import InvalidInput
from daybook.prefect import job_variables

pytestmark = [pytest.mark.slow]

ROOT = Path(__file__).parents[3]
VARIABLES: dict[str, Any] = {
    "image": "registry.example.org/daybook:1",
    "namespace": "jobs",
    "env": {"DAYBOOK_LEDGER_URL": "postgresql://daybook@db/daybook", "A": "1"},
    "cpu_request": "250m",
    "memory_limit": "2Gi",
    "backoff_limit": 0,
    "service_account_name": "daybook",
}

RENDER = """
import asyncio, json, sys
from types import SimpleNamespace as Some
from uuid import uuid4
from prefect.client.schemas.objects import Flow, FlowRun
from prefect_kubernetes.worker import KubernetesWorker as Worker
template = Worker.get_default_base_job_template()
variables = json.load(sys.stdin)
async def main():
    given = await Worker.job_configuration.from_template_and_values(template, variables)
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="a-run")
    given.prepare_for_flow_run(run, flow=Flow(id=run.flow_id, name="agent-prompt"))
    print(json.dumps({"template": template, "manifest": given.job_manifest}))
asyncio.run(main())
"""
# Checks the objects against the models of Kubernetes' API: known fields, types, required fields.
VALIDATE = """
import json, sys
from kubernetes_asyncio import client
from kubernetes_asyncio.client import ApiClient, models
def check(value, kind, place):
    if kind.startswith("list["):
        assert isinstance(value, list), (place, "is no list")
        for number, each in enumerate(value):
            check(each, kind[5:-1], f"{place}[{number}]")
    elif kind.startswith("dict("):
        assert isinstance(value, dict), (place, "is no object")
        for name, each in value.items():
            check(each, kind[5:-1].split(", ")[1], f"{place}.{name}")
    elif hasattr(models, kind):
        model = getattr(models, kind)
        names = {given: name for name, given in model.attribute_map.items()}
        assert isinstance(value, dict), (place, "is no object")
        fields = {}
        for name, each in value.items():
            assert name in names, (place, "has no field", name)
            check(each, model.openapi_types[names[name]], f"{place}.{name}")
            fields[names[name]] = each
        model(**fields)  # raises ValueError if a required field is missing
    elif kind in ("str", "int", "bool", "float"):
        expected = {"str": str, "int": int, "bool": bool, "float": (int, float)}[kind]
        right = isinstance(value, expected) and (kind == "bool" or not isinstance(value, bool))
        assert right, (place, value, "is no", kind)
for each in json.load(sys.stdin):
    group, _, version = each["apiVersion"].rpartition("/")
    check(each, version.capitalize() + each["kind"], each["kind"])
print("valid")
"""


def run(code: str, given: Any) -> str:
    """Return what the code prints in the Python of Prefect's workers, with JSON as its input."""
    python = os.environ.get("TEST_PREFECT_WORKERS", "")
    if not python:
        pytest.skip("TEST_PREFECT_WORKERS names no Python with prefect-kubernetes")
    ended = subprocess.run(
        [python, "-c", code], input=json.dumps(given), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout.strip().splitlines()[-1]


def test_job_variables_reach_the_manifest_that_prefect_kubernetes_renders() -> None:
    rendered = json.loads(run(RENDER, VARIABLES))
    job_variables.check(VARIABLES, rendered["template"])
    with pytest.raises(InvalidInput, match='unknown "memory"'):
        job_variables.check({"memory": "2Gi"}, rendered["template"])
    with pytest.raises(InvalidInput, match='"backoff_limit" does not fit'):
        job_variables.check({"backoff_limit": "none"}, rendered["template"])

    manifest = rendered["manifest"]
    assert manifest["metadata"]["namespace"] == "jobs"
    pod = manifest["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "daybook"
    (container,) = pod["containers"]
    assert container["image"] == VARIABLES["image"]
    assert container["resources"]["requests"]["cpu"] == "250m"
    assert container["resources"]["limits"]["memory"] == "2Gi"
    assert VARIABLES["env"].items() <= {e["name"]: e.get("value") for e in container["env"]}.items()


@pytest.mark.parametrize("file", ["prefect.yaml", "daybook.yaml"])
def test_the_manifests_fit_the_models_of_kubernetes(file: str) -> None:
    text = (ROOT / "deployments" / "kubernetes" / file).read_text()
    listed = yaml.safe_load(text)["items"]
    assert run(VALIDATE, listed) == "valid"
    listed[-1]["spec"]["replica"] = 2
    with pytest.raises(AssertionError, match="has no field"):
        run(VALIDATE, listed)
