"""The invitation of another home to this ledger: a file that `join` reads on another machine.

It contains the ledger's key, the address of Prefect with its credential, the secrets that sign
callbacks and links, the settings that all homes of a ledger must share, and those that the leader
uses. So it is as secret as the ledger's key: its mode is 0600.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, ValidationError
from sqlalchemy import make_url

from daybook import __version__, plain_text, settings
from daybook import home as homes
from daybook.api import authorization
from daybook.delivery import home_secret
from daybook.errors import InvalidInput
from daybook.home import make_private_file
from daybook.http.addresses import is_loopback
from daybook.ledger.database import hosts
from daybook.ledger.engine import Ledger
from daybook.resources import copies
from daybook.runs import shared_settings

LEADER_SETTINGS = ("ping_url", "ping_findings", "public_url", "allowed_hosts", "approval_links")
"""Settings that a home gets from the invitation unless it sets them, for the time when it leads."""
SECRETS = ("ledger_key", "prefect_auth", "webhook_secret", "browser_key")


class Invitation(BaseModel, frozen=True):
    """The content of the file.

    ``webhook_secret`` and ``browser_key`` are the contents of the home's files (`Home`).
    ``shared`` and ``leader`` have the settings that differ from the default, as JSON.
    """

    version: str
    ledger_id: str
    ledger_key: SecretStr
    prefect_api_url: str
    prefect_auth: SecretStr
    webhook_secret: SecretStr
    browser_key: SecretStr
    shared: dict[str, Any] = Field(repr=False)
    leader: dict[str, Any] = Field(repr=False)


def leader_of(loaded: settings.Settings) -> dict[str, Any]:
    """Return the leader's settings that differ from the default, as JSON, with secrets."""
    # The setting of a feature that is left out is unknown.
    found = loaded.model_dump(mode="json", include=set(LEADER_SETTINGS), exclude_defaults=True)
    for name in filter(is_secret, found):
        found[name] = getattr(loaded, name).get_secret_value()
    return found


def is_secret(name: str) -> bool:
    """Return whether the setting ``name`` is a secret."""
    return settings.all_settings().model_fields[name].annotation is SecretStr


async def write(file: Path) -> Invitation:
    """Write an invitation of another home to this home's ledger; return it.

    Raise `InvalidInput` if the file exists, if another machine cannot reach the ledger or Prefect,
    or if the actor is an agent. Raise `LedgerUnreachable`, `LedgerKeyMissing` if this home does not
    have the ledger's key, and the errors of `home_secret.read_secrets`.
    """
    authorization.require_operator()
    _check_new(file)
    loaded = settings.load()
    if not loaded.ledger_url.startswith("postgresql"):
        hint = "move it to PostgreSQL first: daybook ledger move postgresql://user@host/database"
        raise InvalidInput("ledger", "is a file of this machine", hint)
    if any(map(is_loopback, hosts(make_url(loaded.ledger_url)))):
        hint = "set DAYBOOK_LEDGER_URL, or ledger_url, to an address with the machine's name"
        raise InvalidInput("ledger", "has an address that only this machine can reach", hint)
    homes.configure_prefect()
    from prefect.settings import get_current_settings  # reads the variables when it is imported

    api = get_current_settings().api
    hint = "start a Prefect server for all machines, and set PREFECT_API_URL to its address"
    if not api.url or homes.is_own_server(api.url):
        raise InvalidInput("Prefect", "is the server of this machine's `daybook up`", hint)
    if is_loopback(urlsplit(api.url).hostname or ""):
        raise InvalidInput("Prefect", "has an address that only this machine can reach", hint)
    home = homes.current_home()
    async with Ledger(loaded.ledger_address) as ledger:
        async with ledger.write() as session:
            await copies.get_or_create_key(session, home)
        signing = home_secret.read_secrets(home)
        invitation = Invitation(
            version=__version__,
            ledger_id=ledger.id,
            ledger_key=SecretStr(plain_text.read(home.ledger_key).strip()),
            prefect_api_url=api.url,
            prefect_auth=api.auth_string or SecretStr(os.environ.get(homes.CLIENT_CREDENTIAL, "")),
            webhook_secret=SecretStr(home_secret.as_text(signing)),
            browser_key=SecretStr(home.browser_key()),
            shared=shared_settings.changed(loaded),
            leader=leader_of(loaded),
        )
    make_private_file(file, _as_json(invitation))
    return invitation


def _check_new(file: Path) -> None:
    if os.path.lexists(file):
        raise InvalidInput("file", f"{file} exists", "name a new file")


def _as_json(invitation: Invitation) -> str:
    revealed = {name: getattr(invitation, name).get_secret_value() for name in SECRETS}
    return json.dumps({**invitation.model_dump(mode="json"), **revealed}, indent=1) + "\n"


def read(file: Path) -> Invitation:
    """Return the invitation in ``file``; raise `InvalidInput`, without the file's content."""
    try:
        invitation = Invitation.model_validate_json(plain_text.read(file))
        known = invitation.shared.keys() <= set(shared_settings.NAMES)
        known = known and invitation.leader.keys() <= set(LEADER_SETTINGS)
    except OSError as error:
        hint = "write one on a machine of the ledger: daybook invite FILE"
        raise InvalidInput("key-file", f"{file} cannot be read: {error.strerror}", hint) from None
    except (ValidationError, ValueError):
        known = False
    if not known:
        hint = "write one on a machine of the ledger: daybook invite FILE"
        raise InvalidInput("key-file", f"{file} is no invitation of this version", hint)
    return invitation
