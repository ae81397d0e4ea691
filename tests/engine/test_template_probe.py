"""engine/template_probe: the prompt's form is the checkpoint's, differences are named, and a template harms nobody."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.core.render import Form
from kimi_k2_serving.engine import template_child
from kimi_k2_serving.engine.template_file import Template, read_template
from kimi_k2_serving.engine.template_probe import PROBES, ask_template, form_of
from tests.support.template import NO_BREAK, SORTED, TEMPLATE, change
from tests.support.vocabulary import reference_directory


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE.strip())
    return tmp_path


@pytest.mark.parametrize("sorts", [False, True])
@pytest.mark.parametrize("no_break", [False, True])
@pytest.mark.parametrize("in_template", [False, True])
def test_what_is_known_to_vary_is_taken_from_the_template(
    checkpoint: Path, sorts: bool, no_break: bool, in_template: bool
) -> None:
    change(checkpoint, *([NO_BREAK] if no_break else []), *([SORTED] if in_template else []))
    form = form_of(checkpoint, sorts=sorts)
    assert form == Form(line_break=not no_break, sort_tool_keys=sorts or in_template)


@pytest.mark.skipif(reference_directory() is None, reason="the published template is not at hand")
def test_the_published_template_has_the_published_form() -> None:
    directory = reference_directory()
    assert directory is not None
    assert form_of(directory, sorts=False) == Form()


def test_without_a_template_the_form_is_0905s(tmp_path: Path) -> None:
    assert form_of(tmp_path, sorts=False) == Form()
    assert form_of(tmp_path, sorts=True) == Form(sort_tool_keys=True)


@pytest.mark.parametrize("named", [False, True])
def test_a_template_may_stand_in_the_tokenizers_settings(checkpoint: Path, named: bool) -> None:
    change(checkpoint, NO_BREAK)
    text = (checkpoint / "chat_template.jinja").read_text()
    (checkpoint / "chat_template.jinja").unlink()
    given = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": text}] if named else text
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"chat_template": given}))
    assert read_template(checkpoint) == Template(text, "tokenizer_config.json")
    assert form_of(checkpoint, sorts=False) == Form(line_break=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "rule", "probe", "both"),
    [
        ([("## Return of ", "## Result of ")], "P8", "results", ("Result of", "Return of")),
        ([("(message.get('name') or message['role'])", "message['role']")], "P6", "names", ("user", "Ann")),
        ([("separators=(',', ':')", "")], "P2", "tools", ('"type": ', '"type":"')),
        ([("an AI assistant created by", "made by")], "P4", "no system message", ("made by", "an AI assistant")),
        (
            [("{{ part['text'] }}", "{{ part['text'] }}\\n")],
            "P7",
            "list",
            ("a ",),
        ),
    ],
)
def test_another_difference_is_named_and_refused_unless_it_is_accepted(
    checkpoint: Path, changes: list[tuple[str, str]], rule: str, probe: str, both: tuple[str, ...]
) -> None:
    change(checkpoint, *changes, NO_BREAK)
    with pytest.raises(InvalidValue) as caught:
        form_of(checkpoint, sorts=False)
    assert caught.value.field == "chat_template.jinja"
    assert f"rule {rule} with {probe}" in caught.value.detail
    assert "strict_template: false" in caught.value.detail
    for each in both:
        assert each in caught.value.detail
    assert form_of(checkpoint, sorts=False, strict=False) == Form(line_break=probe == "no system message")


HOSTILE = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'x' * (10 ** 10) }}",
    "{% set ns = namespace(x='x' * 100000) %}{% for a in range(99999) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "{% import 'os' as os %}",
    "{% include '/etc/passwd' %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ raise_exception('no') }}",
    "{% not a template",
]


@pytest.mark.slow
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_template_is_stopped_and_refused(
    checkpoint: Path, hostile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkpoint / "chat_template.jinja").write_text(hostile)
    began = time.process_time()
    with pytest.raises(InvalidValue) as caught:
        form_of(checkpoint, sorts=False)
    assert "it fails with" in caught.value.detail
    # The work is the child's.
    assert time.process_time() - began < 5


def test_each_probe_fails_alone() -> None:
    found = ask_template("{% if tools %}{{ raise_exception('no') }}{% endif %}a", sorts=False)
    assert [("text" in each) for each in found] == [each.tools is None for each in PROBES]


def test_the_script_needs_nothing_of_this_project() -> None:
    assert "kimi_k2_serving" not in [
        line.split()[1]
        for line in Path(template_child.__file__).read_text().splitlines()
        if line.startswith(("import", "from"))
    ]
