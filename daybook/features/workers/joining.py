"""`daybook join`: makes this home one of the homes of a ledger on another machine.

::

    check the invitation, the ledger, its key, the settings and Prefect   nothing is written
      ├─ ledger-key              killed after any of these lines: this home does not use the
      ├─ webhook-secret          ledger yet, and the same `join` continues
      ├─ browser-key
      ├─ prefect-server.json
      └─ config.toml             from here on, this home uses the ledger

A secret with other content is never overwritten, because it may be the only copy. A home that uses
the ledger already may join again at any time, as each pod of Kubernetes does when it starts.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel
from sqlalchemy import make_url
from sqlalchemy.exc import ProgrammingError

from daybook import __version__, plain_text, settings
from daybook import home as homes
from daybook.api import authorization
from daybook.api.overdue import clock_skew
from daybook.errors import InvalidInput, LedgerKeyMissing
from daybook.features.workers import invitation as invitations
from daybook.features.workers.invitation import Invitation
from daybook.home import Home, make_private_file, replace_private_file
from daybook.ledger.database import hosts
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact
from daybook.operations import home_lock, ledger_setting, service
from daybook.prefect import client as connection
from daybook.prefect import instances, links
from daybook.resources import copies, encryption
from daybook.runs import shared_settings

SECRET = "(secret)"
"""What `Joined` has instead of the value of a secret setting."""


class Joined(BaseModel, frozen=True):
    """A home that has joined a ledger: its folder, the ledger without a password, and Prefect.

    ``settings`` are the settings that were written to `config.toml`, without the ledger's address
    and without the value of a secret.
    ``warnings`` are differences that do not stop a worker, such as a skewed clock; if the home used
    the ledger already, also secrets and settings that differ from the invitation and stay.
    """

    home: str
    ledger: str
    prefect: str
    settings: dict[str, Any]
    warnings: list[str]


async def join(url: str, file: Path) -> Joined:
    """Let this home use the ledger at ``url``, by the invitation in ``file``.

    Without Prefect settings of its own, this machine also uses the server of the invitation. A
    repeated call, which may have a new password, writes only what is missing or differs in the
    invitation, and keeps the home's own secrets and settings. Raise `InvalidInput`, and write
    nothing, if the home has another ledger or its key, or runs, if the shared settings differ, if
    ``url`` has another ledger or none, if Prefect is not the ledger's, or if the actor is an agent.
    Raise also `LedgerUnreachable`, `PrefectUnreachable` and `LedgerKeyMissing`.
    """
    authorization.require_operator()
    invited, home = invitations.read(file), homes.current_home()
    if home.running() is not None:
        raise home_lock.already_running(home)
    address = _ledger_address(url)
    _check_home(home, address)
    is_joined = bool(settings.load().ledger_url)
    differences = [*_other_secrets(home, invited), *_other_settings(invited)]
    if differences and not is_joined:
        raise differences[0]
    new = _missing_settings(invited)
    keeps_key = is_joined and home.ledger_key.exists()
    found = await _check_ledger(address, invited, None if keeps_key else _key(invited))
    own_prefect = homes.user_prefect()
    prefect = await _check_prefect(invited, found.pool_id, own_prefect)
    warned = [clock_skew("the ledger's", found.skew), _other_version(invited)]
    warned = [*filter(None, warned), *map(str, differences)]
    config = settings.config_file()
    text = _with_settings(ledger_setting.with_ledger_url(config, url), new)
    with home_lock.hold(home, command="join"):
        _check_home(home, address)
        _write_secrets(home.make(), invited, keep=is_joined)
        if not own_prefect:
            credential = invited.prefect_auth.get_secret_value()
            home.write_joined_prefect(invited.prefect_api_url, credential)
        if new or settings.load().ledger_url != address:
            replace_private_file(config, text)
    shown = {name: SECRET if invitations.is_secret(name) else value for name, value in new.items()}
    return Joined(
        home=str(home.path), ledger=found.place, prefect=prefect, settings=shown, warnings=warned
    )


def _ledger_address(url: str) -> str:
    """Return the normal form of the address of a PostgreSQL ledger."""
    try:
        found = settings.load(ledger_url=url).ledger_url if url else ""
    except InvalidInput as error:
        if error.field != "DAYBOOK_LEDGER_URL":
            raise
        raise InvalidInput("url", error.problem, error.hint) from None
    if not found.startswith("postgresql"):
        hint = "write postgresql://user@host/database"
        raise InvalidInput("url", "is no address of a PostgreSQL database", hint)
    return found


def _database(address: str) -> tuple[object, ...]:
    """Return the user, the place and the name of a ledger's database, without the password."""
    url = make_url(address)
    return url.get_backend_name(), url.username, hosts(url), url.port, url.database


def _other_version(invited: Invitation) -> str:
    """Return a warning if the invitation is of another version; otherwise ""."""
    if invited.version == __version__:
        return ""
    warned = f"version {__version__} is here, {invited.version} in the invitation"
    return f"{warned}: the first process of a newer version migrates the ledger"


def _check_home(home: Home, address: str) -> None:
    if "DAYBOOK_LEDGER_URL" in os.environ:
        hint = f"unset it; join writes ledger_url to {settings.config_file()}"
        raise InvalidInput("DAYBOOK_LEDGER_URL", "is set, so it would override the file", hint)
    if "DAYBOOK_LEDGER_URL" in service.read_environment(home):
        problem = "sets DAYBOOK_LEDGER_URL, so the service would use that ledger"
        raise InvalidInput(str(home.service_environment), problem, "delete that line")
    own = settings.load().ledger_url
    is_other = own and _database(own) != _database(address)
    if is_other or (home.path / "ledger.db").exists():
        hint = "set DAYBOOK_HOME to a new folder"
        raise InvalidInput("home", f"{home.path} has a ledger already", hint)


def _secrets(home: Home, invited: Invitation) -> dict[Path, str]:
    """Return the secrets of the invitation by their files."""
    return {
        home.ledger_key: invited.ledger_key.get_secret_value(),
        home.webhook_secret: invited.webhook_secret.get_secret_value(),
        home.browser_key_file: invited.browser_key.get_secret_value(),
    }


def _other_secrets(home: Home, invited: Invitation) -> Iterator[InvalidInput]:
    """Return an error for each file of a secret that exists with other content."""
    for file, secret in _secrets(home, invited).items():
        try:
            is_other = plain_text.read(file).strip() != secret.strip()
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            is_other = True
        if is_other:
            hint = "set DAYBOOK_HOME to a new folder; or, if nothing needs the file, move it away"
            yield InvalidInput("home", f"{file} exists, with another secret", hint)


def _write_secrets(home: Home, invited: Invitation, *, keep: bool) -> None:
    """Write the missing files. Keep a file with another secret, and raise it unless ``keep``."""
    for file, secret in _secrets(home, invited).items():
        make_private_file(file, f"{secret.strip()}\n")
    # A command without the lock may have created one meanwhile.
    if not keep and (other := next(_other_secrets(home, invited), None)):
        raise other


def _other_settings(invited: Invitation) -> Iterator[InvalidInput]:
    """Return the errors for settings of this home that have other values than the invitation."""
    loaded = settings.load()
    own = shared_settings.of(loaded)
    expected = {**shared_settings.usual(), **invited.shared}
    chosen = {name: own[name] for name in own if name in loaded.model_fields_set}
    wrong = [
        f"{name} is {json.dumps(value)} here, {json.dumps(expected[name])} there"
        for name, value in chosen.items()
        if expected[name] != value
    ]
    if wrong:
        hint = "all homes of a ledger need the same value: change it on one side"
        yield InvalidInput("settings", "; ".join(wrong), hint)
    secret = loaded.webhook_secret.get_secret_value()
    if secret and secret not in invited.webhook_secret.get_secret_value().splitlines():
        hint = "unset it here; this home gets the secret in its file webhook-secret"
        yield InvalidInput("webhook_secret", "is not the secret of the other machines", hint)


def _missing_settings(invited: Invitation) -> dict[str, Any]:
    """Return the settings to write: those of the invitation that this home does not set."""
    loaded = settings.load()
    given, known = {**invited.shared, **invited.leader}, settings.all_settings().model_fields
    return {
        name: value
        for name, value in given.items()
        if name in known and name not in loaded.model_fields_set
    }


def _key(invited: Invitation) -> encryption.Key:
    key = encryption.parse_key(invited.ledger_key.get_secret_value())
    if key is None:
        hint = "write a new invitation: daybook invite FILE"
        raise InvalidInput("key-file", "contains no ledger key", hint)
    return key


class _FoundLedger(NamedTuple):
    """A ledger: its place, how far its clock is ahead, and the id of the work pool of its Prefect.

    ``pool_id`` is None if no leader has used the ledger yet.
    """

    place: str
    skew: timedelta
    pool_id: str | None


async def _check_ledger(
    address: str, invited: Invitation, key: encryption.Key | None
) -> _FoundLedger:
    """Return the ledger at ``address``. Create and migrate nothing.

    Raise `InvalidInput` if there is another ledger or none, `LedgerKeyMissing` if its key is not
    ``key``, unless this is None, and `LedgerUnreachable`.
    """
    ledger = Ledger(address)  # not entered, because that would create the tables
    try:
        async with ledger.read() as session:
            fact = await session.get(Fact, "id")
            found = "" if fact is None else fact.value
            key_id = await copies.key_id(session)
            pool_id = await links.recorded_pool_id(session)
        skew = ledger.skew()
    except ProgrammingError:  # there are no tables
        found, key_id, pool_id, skew = "", None, None, timedelta(0)
    finally:
        await ledger.close()
    if found != invited.ledger_id:
        problem = f"{ledger.place} contains {'another' if found else 'no'} ledger"
        raise InvalidInput("url", problem, f"use the address of the ledger {invited.ledger_id[:8]}")
    if key is not None and key_id != key.id:
        raise LedgerKeyMissing(f"the invitation has another key (its id is {key.id}, not {key_id})")
    return _FoundLedger(ledger.place, skew, pool_id)


async def _check_prefect(invited: Invitation, pool_id: str | None, own: str) -> str:
    """Return the address of Prefect, whose work pool has to be the ledger's.

    ``own`` is the server in this machine's own Prefect settings, empty for the invited one. With
    another server, this home would create all jobs there when it leads.
    """
    if pool_id is None:
        hint = "on a machine of the ledger, run `daybook up`, and then join again"
        raise InvalidInput("ledger", "has no Prefect server yet", hint)
    if not own:
        os.environ["PREFECT_API_URL"] = invited.prefect_api_url
        if auth := invited.prefect_auth.get_secret_value():
            os.environ.setdefault(homes.CLIENT_CREDENTIAL, auth)
    homes.configure_prefect()
    async with connection.connected() as client:
        await connection.check_connection(client)
        address = instances.without_user(str(client.api_url))
        if await instances.pool_id(client) != pool_id:
            hint = "on a machine of the ledger: daybook up, and then a new invitation"
            if own:
                hint = "change PREFECT_API_URL, or the active profile of Prefect, on this machine"
            raise InvalidInput("Prefect", f"{address} is not the server of this ledger", hint)
    return address


def _with_settings(before: str, values: dict[str, Any]) -> str:
    """Return the text of a settings file with these values, which it does not contain yet.

    Raise `InvalidInput` if this home cannot have a value, for example because it lacks a feature.
    """
    settings.load(**values)
    text = "".join(f"{name} = {_toml(value)}\n" for name, value in values.items()) + before
    try:
        is_right = tomllib.loads(text).keys() == {**values, **tomllib.loads(before)}.keys()
    except tomllib.TOMLDecodeError:
        is_right = False
    if not is_right:
        hint = f"write the settings of the other machines to {settings.config_file()} by hand"
        raise InvalidInput(
            "key-file", f"has settings that TOML cannot have: {', '.join(values)}", hint
        )
    return text


def _toml(value: Any) -> str:
    """Return a JSON value as TOML, which has no null: without the keys whose value is null."""
    if isinstance(value, dict):
        present = ((key, each) for key, each in value.items() if each is not None)
        return f"{{{', '.join(f'{_toml(key)} = {_toml(each)}' for key, each in present)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    # TOML has no surrogates, and refuses one character that JSON does not escape.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
