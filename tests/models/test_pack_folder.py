"""Where packs lie, and which go."""

import os
from pathlib import Path

import pytest

from nearfield.models.pack_file import PackWriter
from nearfield.models.pack_folder import packs_folder, sweep


def test_where_packs_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/ann")
    assert packs_folder({"NEARFIELD_CACHE": "/big/c", "XDG_CACHE_HOME": "/xdg"}) == Path("/big/c/packs")
    assert packs_folder({"NEARFIELD_CACHE": "~/c"}) == Path("/users/ann/c/packs")
    assert packs_folder({"NEARFIELD_CACHE": "", "XDG_CACHE_HOME": "/xdg"}) == Path("/xdg/nearfield/packs")
    assert packs_folder({"XDG_CACHE_HOME": "relative"}) == Path("/users/ann/.cache/nearfield/packs")
    assert packs_folder({}) == Path("/users/ann/.cache/nearfield/packs")


def test_the_packs_used_longest_ago_go(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        path = tmp_path / f"{name}.pack"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "files.json").write_bytes(bytes(1000))
    sweep(tmp_path, budget=300)
    assert len(list(tmp_path.iterdir())) == 4
    sweep(tmp_path, budget=299)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files.json", "middle.pack", "new.pack"]
    sweep(tmp_path, budget=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files.json", "new.pack"]


def test_only_an_abandoned_file_is_swept(tmp_path: Path) -> None:
    (tmp_path / "left.part").touch()
    writer = PackWriter(tmp_path / "x.pack")
    sweep(tmp_path)
    assert [path.name.startswith("x") for path in tmp_path.iterdir()] == [True]
    writer.commit({})
    assert [path.name for path in tmp_path.iterdir()] == ["x.pack"]
