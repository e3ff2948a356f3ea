"""The rules of `compose.yaml` about access: who may connect, and with what."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "compose.yaml").read_text()
SERVICES = yaml.safe_load(TEXT)["services"]


def test_what_listens_for_others_asks_for_the_credential_and_is_published_locally() -> None:
    listening = {name for name, each in SERVICES.items() if "0.0.0.0" in str(each)}
    published = {name for name, each in SERVICES.items() if "ports" in each}

    assert listening == published == {"prefect", "daybook"}
    server, pages = SERVICES["prefect"], SERVICES["daybook"]
    for port in (*server["ports"], *pages["ports"]):
        assert port.startswith("127.0.0.1:")
    # Under another name, the pages would not accept the requests that come through the port.
    (port,) = pages["ports"]
    assert pages["environment"]["DAYBOOK_PUBLIC_URL"] == f"http://localhost:{port.split(':')[1]}"
    credential = server["environment"]["PREFECT_SERVER_API_AUTH_STRING"]
    assert credential == SERVICES["daybook"]["environment"]["PREFECT_API_AUTH_STRING"]


def test_secrets_come_from_the_environment_and_have_no_default() -> None:
    named = set(re.findall(r"\$\{(.*?)\}", TEXT))

    assert named == {"DATABASE_PASSWORD:?", "PREFECT_CREDENTIAL:?"}


def test_our_containers_are_read_only_without_capabilities_and_have_time_to_stop() -> None:
    for name in ("daybook", "prefect"):
        service = SERVICES[name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        (volume,) = service["volumes"]
        assert volume.endswith(":/data")
    assert SERVICES["daybook"]["stop_grace_period"] == "90s"


def test_the_image_runs_as_another_user_than_root_and_contains_what_the_wheel_needs() -> None:
    text = (ROOT / "Containerfile").read_text()
    last_stage = text[text.rindex("\nFROM ") :]

    assert re.findall(r"^USER (.*)$", last_stage, re.MULTILINE) == ["10001:10001"]
    admitted = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
    assert {name for line in copied for name in line.split()} == admitted
