"""Optuna's storages: one lock whatever the address, and no password anywhere."""

import sqlite3
import sys
from pathlib import Path

import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError

from lecun_ablate.errors import LecunAblateError
from lecun_ablate.studies import optuna_storage
from lecun_ablate.studies.optuna_storage import _lock_of, explained, file_of, open_storage
from lecun_ablate.system.lock import exclusive
from lecun_ablate.system.passwords import without_passwords, without_user


@pytest.mark.parametrize(
    ("address", "same"),
    [
        ("sqlite:///studies/optuna.db", "sqlite+pysqlite:///studies/optuna.db"),
        ("sqlite:///studies/optuna.db", "sqlite:///studies/../studies/optuna.db?timeout=60"),
        ("sqlite:///studies/optuna.db", "sqlite:///file:studies/optuna.db?uri=true"),
        ("studies/optuna.journal", "./studies/optuna.journal"),
        ("studies/optuna.journal", "linked.journal"),
        ("postgresql://a@host/db", "postgresql+psycopg://b:secret@host:5432/db"),
    ],
)
def test_addresses_of_one_storage_share_the_lock_of_a_study(workplace, address, same):
    Path("studies").mkdir()
    Path("linked.journal").symlink_to("studies/optuna.journal")
    assert _lock_of(address, "x/usps") == _lock_of(same, "x/usps")
    assert _lock_of(address, "x/usps") != _lock_of(address, "y/usps")


def test_other_storages_have_other_locks(workplace):
    addresses = [
        "sqlite:///a.db",
        "sqlite:///b.db",
        "a.journal",
        "postgresql://host/a",
        "postgresql://host/b",
        "postgresql://other/a",
        "postgresql://host:5433/a",
    ]
    assert len({_lock_of(address, "x/usps") for address in addresses}) == len(addresses)


def test_a_sqlite_address_with_its_driver_is_a_file(workplace):
    assert file_of("sqlite+pysqlite:////tmp/x.db") == Path("/tmp/x.db")
    assert file_of("sqlite:///:memory:") is None
    assert open_storage("sqlite+pysqlite:///not_there.db") is None  # and is not created
    assert not Path("not_there.db").exists()


def test_a_lock_keeps_the_holders_password_to_itself(tmp_path, monkeypatch):
    storage = "postgresql://user:secret@host/db"
    monkeypatch.setattr(sys, "argv", ["lecun_ablate", "study", "x.yaml", "--storage", storage])
    lock = tmp_path / "x.lock"
    with exclusive(lock, "the study"):
        assert "postgresql://user:***@host/db" in lock.read_text()
        assert "secret" not in lock.read_text()
        with (
            pytest.raises(LecunAblateError) as refused,
            exclusive(lock, "the store mysql://me:hidden@host/x"),
        ):
            pass
    assert "user:***@host" in str(refused.value) and "me:***@host" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("postgresql+psycopg://u:p%40ss@h:5432/db", "postgresql+psycopg://u:***@h:5432/db"),
        ("redis://:secret@h/0", "redis://:***@h/0"),
        (
            "postgresql://h/db?user=u&password=secret&x=1",
            "postgresql://h/db?user=u&password=***&x=1",
        ),
        ("http://u:a@h/ and http://u:b@h/", "http://u:***@h/ and http://u:***@h/"),
        ("postgresql://h:5432/db", "postgresql://h:5432/db"),
        ("postgresql://h/db?user=u&passwd=secret#x", "postgresql://h/db?user=u&passwd=***"),
        ("http://h/?a=1&access_token=t;API_KEY=k", "http://h/?a=1&access_token=***;API_KEY=***"),
        ("http://sometoken@h/", "http://***@h/"),
        ("http://u:p/q?r#s@h/", "http://u:***@h/"),
        ("mysql://h/x?ssl_passphrase=a", "mysql://h/x?ssl_passphrase=***"),
        ("http://h/page?passes=3", "http://h/page?passes=3"),
    ],
)
def test_passwords_are_masked(text, masked):
    assert without_passwords(text) == masked


@pytest.mark.parametrize(
    ("address", "link"),
    [
        ("http://h:5000", "http://h:5000"),
        ("https://u:secret@h/mlflow", "https://h/mlflow"),
        ("https://secret@h/mlflow", "https://h/mlflow"),
        ("https://u:se/cr@et@h", "https://h"),
        ("https://h/x?token=secret", "https://h/x?token=***"),
    ],
)
def test_links_have_no_user(address, link):
    assert without_user(address) == link


def test_a_failed_commit_is_told_by_what_failed():
    """Optuna says of every commit that fails that its data may be invalid."""
    orig = sqlite3.OperationalError("disk I/O error")
    with pytest.raises(LecunAblateError) as told, explained("sqlite:///x.db"):
        try:
            raise OperationalError("INSERT", {}, orig) from orig
        except OperationalError as error:
            raise StorageInternalError("due to invalid data in the commit") from error
    assert str(told.value).startswith("Optuna storage sqlite:///x.db: disk I/O error; the disk")


def test_what_is_no_address_is_refused_without_its_password(workplace):
    with pytest.raises(LecunAblateError) as refused:
        file_of("://user:secret@host/x")
    assert "secret" not in str(refused.value) and "user:***" in str(refused.value)


def test_a_storage_that_cannot_be_created_says_why(tmp_path, monkeypatch):
    """Optuna's own message blames the data."""

    def fails(url):
        try:
            raise OperationalError("COMMIT", {}, sqlite3.OperationalError("disk I/O error"))
        except OperationalError as error:
            raise StorageInternalError("typically due to invalid data in the commit") from error

    monkeypatch.setattr(optuna_storage, "RDBStorage", fails)
    with pytest.raises(LecunAblateError, match=r"optuna\.db: cannot be created: disk I/O error"):
        optuna_storage._create_database(tmp_path / "optuna.db")
