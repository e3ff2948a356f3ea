"""The rules of the compose files about access: who may connect, and with what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ONE_SERVER = "compose.yaml"
FLEET = "deployments/fleet/compose.yaml"
# For each file: who listens for other containers, and who of them is published.
LISTENING = {
    ONE_SERVER: ({"prefect", "daybook"}, {"prefect", "daybook"}),
    FLEET: ({"balancer", "api-1", "api-2", "web"}, {"balancer", "web"}),
}
files = pytest.mark.parametrize("file", LISTENING)


def services(file: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / file).read_text())["services"]
    return found


@files
def test_what_listens_for_others_is_published_locally(file: str) -> None:
    listening = {name for name, each in services(file).items() if "0.0.0.0" in str(each)}
    published = {name: each["ports"] for name, each in services(file).items() if "ports" in each}
    assert (listening, set(published)) == LISTENING[file]
    for port in (each for ports in published.values() for each in ports):
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize(
    ("file", "servers", "clients", "pages"),
    [
        (ONE_SERVER, ["prefect"], ["daybook"], "daybook"),
        (FLEET, ["api-1", "api-2", "services"], ["worker", "keeper", "web"], "web"),
    ],
)
def test_servers_ask_for_the_credential_that_their_clients_have(
    file: str, servers: list[str], clients: list[str], pages: str
) -> None:
    known = services(file)
    asked = {known[each]["environment"]["PREFECT_SERVER_API_AUTH_STRING"] for each in servers}
    sent = {known[each]["environment"]["PREFECT_API_AUTH_STRING"] for each in clients}
    assert asked == sent == {"${PREFECT_CREDENTIAL:?}"}
    # Under another name, the pages would not accept the requests that come through the port.
    (port,) = known[pages]["ports"]
    address = known[pages]["environment"]["DAYBOOK_PUBLIC_URL"]
    assert address == f"http://localhost:{port.split(':')[1]}"


@files
def test_secrets_come_from_the_environment_and_have_no_default(file: str) -> None:
    named = set(re.findall(r"\$\{(.*?)\}", (ROOT / file).read_text()))
    assert named == {"DATABASE_PASSWORD:?", "PREFECT_CREDENTIAL:?"}


@files
def test_our_containers_are_read_only_without_capabilities_and_have_time_to_stop(file: str) -> None:
    for name, service in services(file).items():
        if not service["image"].startswith("postgres"):
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
            assert service["security_opt"] == ["no-new-privileges:true"], name
        if service["image"] == "daybook" and name != "prefect":
            (volume,) = service["volumes"]
            assert volume.endswith(":/data"), name
            assert service["stop_grace_period"] == "90s", name


def test_the_services_have_another_docket_than_the_replicas_which_drop_their_tasks() -> None:
    known = services(FLEET)
    unit = (ROOT / "deployments/fleet/prefect-services.service").read_text()
    settings = (ROOT / "deployments/fleet/prefect.env").read_text()
    (of_replicas,) = re.findall(r"^PREFECT_SERVER_DOCKET_NAME=(.*)$", settings, re.MULTILINE)
    of_services = known["services"]["environment"]["PREFECT_SERVER_DOCKET_NAME"]
    assert f" PREFECT_SERVER_DOCKET_NAME={of_services} " in unit
    assert of_services != of_replicas
    for name in ("api-1", "api-2"):
        assert "PREFECT_SERVER_DOCKET_NAME" not in known[name]["environment"]
        assert known[name]["env_file"] == ["deployments/fleet/prefect.env"]


def test_the_image_runs_as_another_user_than_root_and_contains_what_the_wheel_needs() -> None:
    text = (ROOT / "Containerfile").read_text()
    last_stage = text[text.rindex("\nFROM ") :]

    assert re.findall(r"^USER (.*)$", last_stage, re.MULTILINE) == ["10001:10001"]
    admitted = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
    assert {name for line in copied for name in line.split()} == admitted
