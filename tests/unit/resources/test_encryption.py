"""Encryption of the ledger's block copies: key file, wrong keys, changed texts."""

from __future__ import annotations

import stat

import pytest

from daybook.errors import CopyDamaged, LedgerKeyMissing
from daybook.home import Home
from daybook.resources import encryption
from daybook.resources.encryption import Key
from tests import key_makers, side_by_side

TEXT = '{"value":"s3cr3t-of-the-api"}'
LABEL = "daybook-secret/ops"


def test_an_encrypted_text_can_be_decrypted_and_never_repeats() -> None:
    key = Key(bytes(range(32)))
    sealed = {key.seal(LABEL, TEXT) for _ in range(20)}
    assert len(sealed) == 20
    assert {key.unseal(LABEL, each) for each in sealed} == {TEXT}
    assert not any("s3cr3t" in each for each in sealed)


def test_any_change_of_an_encrypted_text_is_detected() -> None:
    key = Key(bytes(range(32)))
    sealed = key.seal(LABEL, TEXT)
    swapped = {"A": "B"}
    changed = [
        sealed[:place] + swapped.get(sealed[place], "A") + sealed[place + 1 :]
        for place in range(len(sealed))
    ]
    for each in [*changed, sealed[:-4], sealed[:20], sealed + "AAAA", "", "v1.", "v1.é", TEXT]:
        with pytest.raises(CopyDamaged) as caught:
            key.unseal(LABEL, each)
        assert str(caught.value) == f"the ledger's copy of {LABEL} is damaged"


def test_an_encrypted_text_cannot_be_used_under_another_label() -> None:
    key = Key(bytes(range(32)))
    with pytest.raises(CopyDamaged):
        key.unseal("daybook-secret/other", key.seal(LABEL, TEXT))


def test_another_key_cannot_decrypt_a_text() -> None:
    key, other = Key(bytes(range(32))), Key(bytes(range(1, 33)))
    assert key.id != other.id
    with pytest.raises(CopyDamaged):
        other.unseal(LABEL, key.seal(LABEL, TEXT))


def test_the_key_is_created_once_and_only_its_owner_can_read_it(daybook_home: Home) -> None:
    file = daybook_home.ledger_key
    assert encryption.read_key(file) is None
    made = encryption.read_or_create_key(file)
    text = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert encryption.read_or_create_key(file).id == made.id
    assert file.read_text() == text
    assert made.id not in text
    # No draft file remains.
    assert [each.name for each in daybook_home.path.iterdir() if "key" in each.name] == [file.name]


def test_two_homes_have_different_keys(daybook_home: Home) -> None:
    other = Home(daybook_home.path.parent / "other").make()
    made = {encryption.read_or_create_key(each.ledger_key).id for each in (daybook_home, other)}
    assert len(made) == 2


def test_concurrent_processes_create_one_shared_key(daybook_home: Home) -> None:
    assert len(set(side_by_side.at_once(key_makers.ledger_key, [(daybook_home,)] * 4))) == 1


@pytest.mark.parametrize("text", ["", "dbk_", "dbk_c2hvcnQ=", "nothing of ours", "dbk_é", "A" * 48])
def test_a_file_without_a_key_is_reported_and_neither_replaced_nor_quoted(
    daybook_home: Home, text: str
) -> None:
    file = daybook_home.ledger_key
    file.write_text(text)
    for ask in (encryption.read_key, encryption.read_or_create_key):
        with pytest.raises(LedgerKeyMissing) as caught:
            ask(file)
        assert caught.value.why == f"{file} contains no key"
    assert file.read_text() == text
