"""Database URLs at rest: readable with the key, and with nothing else."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from segue.errors import ConfigurationError, ExitCode
from segue.settings import Settings
from segue.store.secrets import decrypt, encrypt

URL = "postgresql://anna:hunter2@db/shop"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", store=None, key=None, user="anna")


def test_a_secret_comes_back_and_does_not_lie_open(settings: Settings) -> None:
    token = encrypt(settings, URL)
    assert "hunter2" not in token
    assert decrypt(settings, token) == URL
    assert stat.S_IMODE((settings.home / "key").stat().st_mode) == 0o600


def test_a_key_that_others_may_read_is_refused(settings: Settings) -> None:
    token = encrypt(settings, URL)
    (settings.home / "key").chmod(0o640)
    with pytest.raises(ConfigurationError, match="owner only") as caught:
        decrypt(settings, token)
    assert caught.value.exit_code is ExitCode.CONFIGURATION


def test_another_key_is_refused(settings: Settings) -> None:
    token = encrypt(settings, URL)
    with pytest.raises(ConfigurationError, match="cannot be decrypted with the key from SEGUE_KEY"):
        decrypt(replace(settings, key=Fernet.generate_key().decode()), token)


@pytest.mark.parametrize("key", ["short", "ä" * 44, "=" * 44])
def test_a_word_that_is_no_key_is_refused(settings: Settings, key: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a key"):
        encrypt(replace(settings, key=key), URL)


def test_a_key_file_that_holds_something_else_is_refused_with_a_way_out(settings: Settings) -> None:
    token = encrypt(settings, URL)
    (settings.home / "key").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="holds something else than a key") as caught:
        decrypt(settings, token)
    assert "SEGUE_KEY" in caught.value.hint


def test_a_key_file_that_cannot_be_read_is_refused_with_a_way_out(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = encrypt(settings, URL)

    def refused(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", str(settings.home / "key"))

    # Root may read every file, so that the refusal is made here.
    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(ConfigurationError, match=r"cannot be read: Permission denied$") as caught:
        decrypt(settings, token)
    assert "SEGUE_KEY" in caught.value.hint


def test_decrypting_never_makes_a_new_key(settings: Settings) -> None:
    token = encrypt(settings, URL)
    (settings.home / "key").unlink()
    with pytest.raises(ConfigurationError, match="there is no key"):
        decrypt(settings, token)
    assert not (settings.home / "key").exists()


def test_first_uses_at_once_agree_on_one_key(settings: Settings) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda number: encrypt(settings, str(number)), range(8)))
    assert [decrypt(settings, token) for token in tokens] == [str(number) for number in range(8)]
    assert [path.name for path in settings.home.iterdir()] == ["key"]
