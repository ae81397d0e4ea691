"""Documents are correct, as far as a test can tell: links work, all parts are named, no foreign host is mentioned."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.structure.tree import PACKAGE, ROOT, TEXT, files, modules

DOCUMENTS = [path for path in sorted(files()) if path.suffix == ".md" and ".github" not in path.parts]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HOST = re.compile(r"\b(?:https?|grpc|ssh|git)://(?:[^\s/@]*@)?([A-Za-z0-9][A-Za-z0-9.-]*\.[A-Za-z]{2,})", re.ASCII)
# Hosts that a reader needs: standards, licences, and the sources of images, models and CPU builds of PyTorch.
HOSTS = {
    "download.pytorch.org",
    "github.com",
    "huggingface.co",
    "json-schema.org",
    "nvcr.io",
    "www.apache.org",
    "www.w3.org",
}
RESERVED = ("example.com", "example.net", "example.org", ".example", ".invalid", ".test")
# Directories of a developer's machine mean nothing to other readers.
FOREIGN_PATHS = re.compile(r"(?<![\w./])/(?:work|root|opt/(?!tritonserver|nvidia|kimi-k2)\w+)/\w")


def prose(path: Path) -> str:
    """The document without its code blocks and inline code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text("utf-8"), flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Headings as GitHub makes them addressable."""
    headings = re.findall(r"^#+ +(.+)$", path.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links() -> Iterator[tuple[Path, str]]:
    for document in DOCUMENTS:
        for target in LINK.findall(prose(document)):
            if "://" not in target and not target.startswith("mailto:"):
                yield document, target


def texts() -> Iterator[tuple[Path, str]]:
    for path in files():
        if path.suffix in TEXT and Path(__file__) != path:
            yield path, path.read_text("utf-8", errors="replace")


def test_there_are_links_to_check() -> None:
    assert len(list(links())) > 10


def blocks() -> Iterator[tuple[Path, str, str]]:
    """Each code block: its document, its language and its text without the indentation of the fence."""
    for document in DOCUMENTS:
        language: str | None = None
        text: list[str] = []
        for line in document.read_text("utf-8").splitlines():
            if not line.strip().startswith("```"):
                text.append(line)
            elif language is None:
                language, text = line.strip().removeprefix("```"), []
            else:
                yield document, language, textwrap.dedent("\n".join(text))
                language = None
        assert language is None, f"{document.name} leaves a code block open"


def test_every_code_block_names_its_language() -> None:
    known = {"bash", "sh", "console", "json", "python", "text", "toml", "yaml"}
    wrong = {
        f"{document.relative_to(ROOT)}: {language!r}" for document, language, _ in blocks() if language not in known
    }
    assert wrong == set()


def test_code_blocks_are_what_their_language_says() -> None:
    for document, language, text in blocks():
        try:
            match language:
                case "python":
                    ast.parse(text)
                case "json":
                    json.loads(text)
                case "toml":
                    tomllib.loads(text)
                case "yaml":
                    list(yaml.safe_load_all(text))
                case "bash" | "sh":
                    subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=True)
        except (SyntaxError, ValueError, yaml.YAMLError, subprocess.CalledProcessError) as error:
            pytest.fail(f"{document.relative_to(ROOT)}: {error}\n{text}")


def test_the_index_names_every_document() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"]({name})" not in index} == set()


def test_every_picture_is_there_and_described() -> None:
    for document in DOCUMENTS:
        for description, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", prose(document)):
            assert description, f"{document.name}: {target} has no description"
            assert (document.parent / target).is_file(), f"{document.name}: {target} is missing"


def test_relative_links_lead_to_files_and_headings() -> None:
    broken = []
    for document, target in links():
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(f"{document.relative_to(ROOT)} -> {target}")
    assert broken == []


def test_no_foreign_host_is_named() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {host}"
        for path, text in texts()
        for host in HOST.findall(text)
        if host not in HOSTS and not host.endswith(RESERVED)
    }
    assert found == set()


def test_no_path_of_somebody_s_machine_is_named() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {match[0]}" for path, text in texts() for match in FOREIGN_PATHS.finditer(text)
    }
    assert found == set()


@pytest.mark.parametrize(
    ("text", "host"),
    [("see https://user:key@pypi.mirror.internal/simple", "pypi.mirror.internal"), ("http://127.0.0.1:8000/v2", None)],
)
def test_a_host_is_seen_where_there_is_one(text: str, host: str | None) -> None:
    assert HOST.findall(text) == ([host] if host else [])


def test_the_architecture_names_every_part_of_the_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    parts = {module.name.split(".")[1] for module in modules("backend") if module.name.startswith(f"{PACKAGE}.")}
    assert {part for part in parts if f"`{PACKAGE}/{part}" not in text} == set()


def test_the_architecture_names_every_module_of_core() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    names = {module.path.stem for module in modules("backend") if module.group == "core"} - {"__init__"}
    assert {name for name in names if f"`{name}`" not in text} == set()
