"""Where settings come from, which wins, and what is said about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from segue import settings
from segue.errors import ConfigurationError, ExitCode


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "segue.toml").write_text('user = "file"\nstore = "postgresql://file/db"\n')
    loaded = settings.load({"SEGUE_USER": "anna"}, tmp_path)
    assert (loaded.user, loaded.store) == ("anna", "postgresql://file/db")


def test_the_nearest_file_upwards_counts_and_its_home_is_beside_it(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "segue.toml").write_text('home = "far"\n')
    (tmp_path / "a" / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.segue]\nhome = "near"\n')
    assert settings.load({}, below).home == tmp_path / "a" / "near"


def test_a_pyproject_without_our_table_is_passed_over(tmp_path: Path) -> None:
    below = tmp_path / "a"
    below.mkdir()
    (below / "pyproject.toml").write_text('[project]\nname = "x"\n')
    (tmp_path / "segue.toml").write_text('user = "above"\n')
    assert settings.load({}, below).user == "above"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("segue.toml", 'hoem = "x"', 'unknown key "hoem"'),
        ("pyproject.toml", '[tool.segue]\nhoem = "x"', 'unknown key "tool.segue.hoem"'),
        ("segue.toml", "home = 3", '"home" must be a text'),
        ("segue.toml", 'home = "', "is not valid TOML"),
        ("segue.toml", 'key = "secret"', '"key" does not belong in a file'),
        ("pyproject.toml", "[tool]\nsegue = 1", '"tool.segue" must be a table'),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_key(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        settings.load({}, tmp_path)
    assert str(tmp_path / name) in caught.value.message
    assert said in caught.value.message
    assert caught.value.exit_code is ExitCode.CONFIGURATION


def test_a_store_that_is_no_url_is_refused_without_showing_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings.load({"SEGUE_STORE": "host=db password=hunter2"}, tmp_path)
    assert "hunter2" not in caught.value.message


def test_settings_do_not_show_secrets(tmp_path: Path) -> None:
    loaded = settings.load({"SEGUE_STORE": "postgresql://a:hunter2@b/c", "SEGUE_KEY": "sesame"}, tmp_path)
    assert "hunter2" not in repr(loaded)
    assert "sesame" not in repr(loaded)


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        settings.load({"SEGUE_HOME": str(tmp_path / "home")}, tmp_path).prepare_home()
