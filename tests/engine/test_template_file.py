"""engine/template_file: which file a template is read from, and that no file outside the checkpoint is shown."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kimi_k2_serving.core.errors import InvalidValue, NotFound
from kimi_k2_serving.engine.template_file import TEMPLATE_BYTES, Template, read_template
from kimi_k2_serving.engine.template_probe import form_of
from tests.support.template import TEMPLATE

JINJA = "chat_template.jinja"
SETTINGS = "tokenizer_config.json"
SECRET = "the secret of another file"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    found = tmp_path / "checkpoint"
    found.mkdir()
    return found


def refusal(checkpoint: Path) -> InvalidValue | NotFound:
    with pytest.raises((InvalidValue, NotFound)) as caught:
        read_template(checkpoint)
    return caught.value


def test_a_template_is_named_by_the_file_that_it_stands_in(checkpoint: Path) -> None:
    assert read_template(checkpoint) is None
    (checkpoint / SETTINGS).write_text("{}")
    assert read_template(checkpoint) is None
    (checkpoint / SETTINGS).write_text(json.dumps({"chat_template": "a"}))
    assert read_template(checkpoint) == Template("a", SETTINGS)
    (checkpoint / JINJA).write_text("b")
    assert read_template(checkpoint) == Template("b", JINJA)


def test_a_refusal_names_the_file_that_the_template_stands_in(checkpoint: Path) -> None:
    (checkpoint / SETTINGS).write_text(json.dumps({"chat_template": TEMPLATE.replace("You are", "I am")}))
    with pytest.raises(InvalidValue) as caught:
        form_of(checkpoint, sorts=False)
    assert caught.value.field == SETTINGS
    assert JINJA not in str(caught.value)


@pytest.mark.parametrize("name", [JINJA, SETTINGS])
def test_a_link_to_nothing_is_not_taken_for_no_template(checkpoint: Path, name: str) -> None:
    (checkpoint / name).symlink_to("gone")
    found = refusal(checkpoint)
    assert found.field == name
    assert "a link to a file that is not there" in found.detail


@pytest.mark.parametrize("name", [JINJA, SETTINGS])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Path.mkdir, "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), ""),
        (lambda path: path.symlink_to(path.name), "cannot be read"),
        (lambda path: path.write_bytes(b"\xff\xfe{"), "not valid"),
    ],
)
def test_what_is_no_readable_file_is_refused_by_its_name(
    checkpoint: Path, name: str, make: Callable[[Path], None], said: str
) -> None:
    make(checkpoint / name)
    found = refusal(checkpoint)
    assert found.field == name
    assert said in found.detail


def test_a_template_has_a_bound(checkpoint: Path) -> None:
    (checkpoint / JINJA).write_text("x" * (TEMPLATE_BYTES + 1))
    assert "has more than" in refusal(checkpoint).detail


@pytest.mark.parametrize("name", [JINJA, SETTINGS])
@pytest.mark.parametrize("through_directory", [False, True])
def test_a_file_outside_the_checkpoint_is_not_quoted(checkpoint: Path, name: str, through_directory: bool) -> None:
    other = checkpoint.parent / "other"
    other.mkdir()
    (other / name).write_text(SECRET if name == JINJA else json.dumps({"chat_template": SECRET}))
    if through_directory:
        (checkpoint / "inside").symlink_to(other)
    (checkpoint / name).symlink_to(Path("inside" if through_directory else other, name))
    with pytest.raises(InvalidValue) as caught:
        form_of(checkpoint, sorts=False)
    assert caught.value.field == name
    assert "a link to a file outside the checkpoint" in caught.value.detail
    assert SECRET not in str(caught.value)


def test_the_tokenizers_settings_may_lie_elsewhere_if_they_hold_no_template(checkpoint: Path) -> None:
    (checkpoint.parent / SETTINGS).write_text("{}")
    (checkpoint / SETTINGS).symlink_to(checkpoint.parent / SETTINGS)
    assert read_template(checkpoint) is None


def snapshot(cache: Path, name: str, blob: str, text: str) -> Path:
    """A download as it lies in a Hugging Face cache."""
    made = cache / "models--a--b" / "snapshots" / ("1" * 40)
    blobs = cache / "models--a--b" / "blobs"
    made.mkdir(parents=True)
    blobs.mkdir()
    (blobs / blob).write_text(text)
    (made / name).symlink_to(Path("..", "..", "blobs", blob))
    return made


@pytest.mark.parametrize("digits", [40, 64])
@pytest.mark.parametrize("name", [JINJA, SETTINGS])
def test_a_download_in_a_hugging_face_cache_is_read(tmp_path: Path, name: str, digits: int) -> None:
    text = "a" if name == JINJA else json.dumps({"chat_template": "a"})
    made = snapshot(tmp_path / "cache", name, "0a" * (digits // 2), text)
    assert read_template(made) == Template("a", name)
    # The checkpoint, and the cache too, may themselves be reached by a link.
    (tmp_path / "link").symlink_to(made)
    assert read_template(tmp_path / "link") == Template("a", name)
    (tmp_path / "cache").rename(tmp_path / "moved")
    (tmp_path / "cache").symlink_to("moved")
    assert read_template(made) == Template("a", name)


def test_only_blobs_of_the_same_cache_are_read(tmp_path: Path) -> None:
    hashed = "0a" * 20
    made = snapshot(tmp_path / "one", JINJA, "passwords", SECRET)
    assert "outside the checkpoint" in refusal(made).detail
    other = snapshot(tmp_path / "two", JINJA, hashed, SECRET)
    (made / JINJA).unlink()
    (made / JINJA).symlink_to(other / JINJA)
    assert "outside the checkpoint" in refusal(made).detail
    # A blob that is a link itself.
    (tmp_path / "secret").write_text(SECRET)
    blob = tmp_path / "two" / "models--a--b" / "blobs" / hashed
    blob.unlink()
    blob.symlink_to(tmp_path / "secret")
    assert "outside the checkpoint" in refusal(other).detail
    # The same layout without `snapshots`.
    plain = tmp_path / "three" / "elsewhere" / "checkpoint"
    plain.mkdir(parents=True)
    (tmp_path / "three" / "blobs").mkdir()
    (tmp_path / "three" / "blobs" / hashed).write_text(SECRET)
    (plain / JINJA).symlink_to(Path("..", "..", "blobs", hashed))
    assert "outside the checkpoint" in refusal(plain).detail


def test_a_link_within_the_checkpoint_is_followed(checkpoint: Path) -> None:
    (checkpoint / "..data").mkdir()
    (checkpoint / "..data" / JINJA).write_text("a")
    (checkpoint / JINJA).symlink_to(Path("..data", JINJA))
    assert read_template(checkpoint) == Template("a", JINJA)
