from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bids_msseg.errors import DataError, NoInputError, UsageError
from bids_msseg.models.weights import (
    DEFAULT_MODEL,
    DIGEST_KEY,
    FORMAT,
    HEADER_KEY,
    CascadePoint,
    find_model,
    read_header,
)


def _file(path: Path, entries: object, body: bytes = b"") -> Path:
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def _entries(**changes: object) -> dict[str, object]:
    header = {
        "format": FORMAT,
        "name": "toy",
        "version": "1",
        "members": {},
        "point": {"candidate_threshold": 0.2},
        "notes": {},
        DIGEST_KEY: hashlib.sha256(b"").hexdigest(),
        **changes,
    }
    return {"__metadata__": {HEADER_KEY: json.dumps(header)}}


def test_header_is_read_without_networks(tmp_path: Path) -> None:
    header = read_header(_file(tmp_path / "a.safetensors", _entries()))
    assert (header.name, header.version) == ("toy", "1")
    assert header.point == CascadePoint(candidate_threshold=0.2)
    assert len(header.sha256) == 64


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ({}, "no '__metadata__'"),
        ([], "list"),
        (7, "int"),
        ({"__metadata__": {}}, "no 'bids_msseg'"),
        ({"__metadata__": {HEADER_KEY: "not json"}}, ""),
        ({"__metadata__": {HEADER_KEY: "[" * 100_000}}, ""),
        ({"__metadata__": {HEADER_KEY: "[]"}}, ""),
        (_entries(format="another-1"), "another-1"),
        (_entries(**{DIGEST_KEY: "0"}), "checksum"),
        (_entries(point={"threshold": "high"}), "high"),
        (_entries(point={"threshold": 1.5}), "threshold"),
        (_entries(point={"gate": 0.2, "keep": 0.5}), ""),
        (_entries(point={"door": 0.2}), "door"),
        (_entries(point=None), ""),
        (_entries(members=[1]), ""),
        (_entries() | {"t": {"data_offsets": []}}, ""),
        (_entries() | {"t": {"data_offsets": [0, 4]}}, "0 bytes of weights instead of 4"),
    ],
)
def test_invalid_header_is_refused_with_file_name(
    entries: object, why: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        read_header(_file(tmp_path / "odd.safetensors", entries))
    assert caught.value.message.startswith("odd.safetensors is not a usable cascade: ")
    assert why in caught.value.message


def test_refusal_of_old_format_hints_at_retraining(tmp_path: Path) -> None:
    old = _entries(format="bids_msseg-cascade-1", point={"gate": 0.2, "keep": 0.5})
    with pytest.raises(DataError, match="bids_msseg-cascade-1") as caught:
        read_header(_file(tmp_path / "old.safetensors", old))
    assert "msseg-train" in caught.value.hint


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60))
def test_random_bytes_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "garbage.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"garbage\.safetensors"):
        read_header(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.safetensors"):
        read_header(tmp_path / "none.safetensors")


def test_find_model_accepts_path(tmp_path: Path) -> None:
    path = _file(tmp_path / "mine.safetensors", _entries())
    assert find_model(str(path)) == path


@pytest.mark.parametrize("model", ["nowhere/mine.safetensors", "mine.safetensors", "./mine"])
def test_find_model_refuses_missing_path(model: str) -> None:
    with pytest.raises(NoInputError, match="weights file not found") as caught:
        find_model(model)
    assert "msseg-train" in caught.value.hint


def test_find_model_refuses_unknown_name() -> None:
    with pytest.raises(UsageError, match="'oracle'") as caught:
        find_model("oracle")
    assert "path" in caught.value.hint


@pytest.fixture
def bundled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    from bids_msseg.models import weights

    folder = tmp_path / "data" / "weights"
    folder.mkdir(parents=True)
    monkeypatch.setattr(weights.resources, "files", lambda _: tmp_path)
    return folder


def test_find_model_finds_default_and_named_bundled_models(bundled: Path) -> None:
    for name in (DEFAULT_MODEL, "other"):
        _file(bundled / f"{name}.safetensors", _entries())
    assert find_model(None) == bundled / f"{DEFAULT_MODEL}.safetensors"
    assert find_model("other") == bundled / "other.safetensors"
    with pytest.raises(UsageError) as caught:
        find_model("third")
    assert f"{DEFAULT_MODEL}, other" in caught.value.hint


def test_error_hints_that_no_model_is_bundled(bundled: Path) -> None:
    assert not list(bundled.iterdir())
    with pytest.raises(UsageError) as caught:
        find_model(None)
    assert "none is bundled" in caught.value.hint
