"""The manifests for Kubernetes: secrets by reference, locked containers, and the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deployments" / "kubernetes"
FILES = ("prefect.yaml", "daybook.yaml")


def items(file: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects of a file by kind and name."""
    listed: list[dict[str, Any]] = yaml.safe_load((FOLDER / file).read_text())["items"]
    return {(each["kind"], each["metadata"]["name"]): each for each in listed}


def pods(file: str) -> dict[str, dict[str, Any]]:
    """Return the specifications of the pods by the name of what creates them."""
    found = items(file).items()
    return {name: each["spec"]["template"]["spec"] for (_, name), each in found if _has_pod(each)}


def _has_pod(item: dict[str, Any]) -> bool:
    return "template" in item.get("spec", {})


@pytest.mark.parametrize("file", FILES)
def test_no_container_may_do_more_than_it_needs(file: str) -> None:
    for name, pod in pods(file).items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["automountServiceAccountToken"] is False, name
        for each in [*pod.get("initContainers", ()), *pod["containers"]]:
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            mounted = {mount["name"] for mount in each["volumeMounts"]}
            volumes = {volume["name"] for volume in pod["volumes"]} | {"home"}
            assert mounted <= volumes, name


@pytest.mark.parametrize("file", FILES)
def test_objects_are_in_the_namespace_and_their_selectors_match(file: str) -> None:
    found = items(file)
    labels = []
    for (kind, name), each in found.items():
        assert kind == "Namespace" or each["metadata"]["namespace"] == "daybook", name
        if _has_pod(each):
            labels.append(each["spec"]["template"]["metadata"]["labels"])
            if "selector" in each["spec"]:
                assert each["spec"]["selector"]["matchLabels"] == labels[-1], name
    selected = [each["spec"]["selector"] for (kind, _), each in found.items() if kind == "Service"]
    assert selected
    assert all(each in labels for each in selected)


def test_secrets_are_references() -> None:
    for file in FILES:
        text = (FOLDER / file).read_text()
        assert "kind: Secret" not in text
        assert "AUTH_STRING" not in text
        assert "postgresql://" not in text
    for name, pod in pods("prefect.yaml").items():
        (container,) = pod["containers"]
        assert {"secretRef": {"name": "prefect"}} in container["envFrom"], name
    for name, pod in pods("daybook.yaml").items():
        secrets = [each["secret"] for each in pod["volumes"] if "secret" in each]
        assert secrets == [{"secretName": "daybook", "defaultMode": 0o440}], name


def test_prefect_has_the_settings_of_the_fleet() -> None:
    config = items("prefect.yaml")["ConfigMap", "prefect"]["data"]
    lines = (ROOT / "deployments" / "fleet" / "prefect.env").read_text().splitlines()
    fleet = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert fleet.items() <= config.items()
    services = pods("prefect.yaml")["prefect-services"]["containers"][0]
    (own,) = services["env"]  # the replicas drop the tasks of services with their name
    assert own["name"] == "PREFECT_SERVER_DOCKET_NAME"
    assert own["value"] != config["PREFECT_SERVER_DOCKET_NAME"]


def test_the_api_has_replicas_and_all_else_that_must_be_alone_is() -> None:
    prefect, daybook = items("prefect.yaml"), items("daybook.yaml")
    assert prefect["Deployment", "prefect-api"]["spec"]["replicas"] >= 2
    for alone in (prefect["Deployment", "prefect-services"], daybook["Deployment", "web"]):
        assert alone["spec"]["replicas"] == 1
        assert alone["spec"]["strategy"] == {"type": "Recreate"}
    worker = daybook["StatefulSet", "worker"]["spec"]
    (home,) = worker["volumeClaimTemplates"]  # it has the outcomes that wait for the ledger
    assert home["metadata"]["name"] == "home"
    for name, pod in pods("daybook.yaml").items():
        assert pod["terminationGracePeriodSeconds"] >= 90, name
        assert pod["initContainers"][0]["args"][0] == "join", name
        assert pod["containers"][0]["args"] == [name]
