"""engine/template_probe: the prompt's form is the checkpoint's, differences are named, and a template harms nobody."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.core.render import Form
from kimi_k2_serving.engine import template_child
from kimi_k2_serving.engine.probe_conversations import PROBES
from kimi_k2_serving.engine.template_file import Template, read_template
from kimi_k2_serving.engine.template_probe import ask_template, form_of
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
@pytest.mark.parametrize("line_break", [True, False])
def test_the_published_template_has_the_published_form(tmp_path: Path, line_break: bool) -> None:
    directory = reference_directory()
    assert directory is not None
    shutil.copyfile(directory / "chat_template.jinja", tmp_path / "chat_template.jinja")
    change(tmp_path, *([] if line_break else [("<|im_end|>' ~ '\\n' -}}", "<|im_end|>' -}}")]))
    assert form_of(tmp_path, sorts=False) == Form(line_break=line_break)


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


SAY = "{{- text(message['content']) -}}"
ARGUMENTS = "{{ call['function']['arguments'] -}}"
EACH = "{%- for message in messages -%}"
END = "  <|im_end|>\n{%- endfor"


def fails_if(condition: str) -> tuple[str, str]:
    return EACH, EACH + "{%- if " + condition + " -%}{{ raise_exception('no') }}{%- endif -%}"


def adds_after(condition: str) -> tuple[str, str]:
    return END, "  <|im_end|>{%- if " + condition + " -%}X{%- endif -%}\n{%- endfor"


DIFFERENCES = {
    "ids by the place in the message": (
        ("{{ call['id'] }}", "functions.{{ call['function']['name'] }}:{{ loop.index0 }}"),
        "P9 with calls in three rounds",
    ),
    "tools in the order of their names": (
        ("{{ tools |", "{{ tools | sort(attribute='function.name') |"),
        "P3 with tools that are not in order",
    ),
    "tools in the order of their first letters": (
        ("{{ tools |", "{{ tools | groupby('function.name.0') | map('last') | sum(start=[]) |"),
        "P3 with tools that are not in order",
    ),
    "the first ten tools": (("{{ tools |", "{{ tools[:10] |"), "P3 with twelve tools"),
    "reasoning": ((SAY, "{{- message.get('reasoning_content') or '' -}}" + SAY), "P15 with reasoning of past answers"),
    "reasoning in the last turn": (
        (SAY, "{%- if message.get('tool_calls') -%}{{ message.get('reasoning') or '' }}{%- endif -%}" + SAY),
        "P15 with reasoning beside calls",
    ),
    "a rule for developers": (
        (SAY, "{%- if message['role'] == 'developer' -%}# Instructions: {%- endif -%}" + SAY),
        "P13 with a developer message",
    ),
    "developers as users": (("'system') -%}", "'user' if message['role'] == 'developer' else 'system') -%}"), "P13"),
    "no developers": (fails_if("message['role'] == 'developer'"), "P13 with a developer message"),
    "a result's name in its text": (
        ("~ message['tool_call_id'] ~", "~ (message.get('name') or message['tool_call_id']) ~"),
        "P6 with a result with a name",
    ),
    "no later system message": (
        fails_if("message['role'] == 'system' and not loop.first"),
        "P5 with a later system message",
    ),
    "no users in a row": (
        fails_if("not loop.first and message['role'] == 'user' == loop.previtem['role']"),
        "P5 with two users in a row",
    ),
    "no answer at the end": (fails_if("loop.last and message['role'] == 'assistant'"), "P11"),
    "no content beside calls": ((SAY, "{%- if not message.get('tool_calls') -%}" + SAY + "{%- endif -%}"), "P8"),
    "a word for no content": ((SAY, "{{- text(message['content']) or 'None' -}}"), "P7"),
    "a word for null": ((SAY, "{{- text(message['content']) if message['content'] is not none else 'None' -}}"), "P7"),
    "a word for null beside calls": (
        (SAY, SAY + "{%- if message['content'] is none and message.get('tool_calls') -%}None{%- endif -%}"),
        "P9 with calls in three rounds",
    ),
    "content is needed": (fails_if("message['content'] is undefined"), "P9 with calls without content"),
    "trimmed": ((SAY, "{{- text(message['content']) | trim -}}"), "P5"),
    "escaped": ((SAY, "{{- text(message['content']) | e -}}"), "P8"),
    "without control tokens": ((SAY, "{{- text(message['content']) | replace('<|im_end|>', '') -}}"), "P1"),
    "without thoughts": ((SAY, "{{- text(message['content']).split('</think>')[-1] -}}"), "P1"),
    "cut": ((SAY, "{{- text(message['content'])[:5000] -}}"), "P7 with long texts"),
    "results cut": (
        (SAY, "{{- text(message['content'])[:5000 if message['role'] == 'tool' else 9999] -}}"),
        "P8 with a long result",
    ),
    "sorted arguments": (
        (
            ARGUMENTS,
            "{%- set a = call['function']['arguments'] -%}{{ a if a is string else a | tojson(sort_keys=True) -}}",
        ),
        "P10 with arguments that are an object",
    ),
    "from the thirteenth message": (adds_after("loop.index > 12"), "P5 with a long conversation"),
    "from the fortieth message": (adds_after("loop.index > 39"), "P5 with a long conversation"),
    "from the fortieth message without tools": (
        adds_after("loop.index > 39 and not tools"),
        "P5 with a long conversation without a system message and tools",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_that_few_conversations_show_is_refused(checkpoint: Path, name: str) -> None:
    replaced, said = DIFFERENCES[name]
    change(checkpoint, replaced)
    with pytest.raises(InvalidValue) as caught:
        form_of(checkpoint, sorts=False)
    assert f"differs from rule {said}" in caught.value.detail
    assert "where this server writes" in caught.value.detail or "it fails with TemplateError" in caught.value.detail


@pytest.mark.parametrize(
    "replaced",
    [
        (ARGUMENTS, "{%- set a = call['function']['arguments'] -%}{{ a if a is string else a | tojson -}}"),
        ("or message['role'])", "or ('system' if message['role'] == 'developer' else message['role']))"),
    ],
)
def test_a_template_may_do_what_this_server_does(checkpoint: Path, replaced: tuple[str, str]) -> None:
    change(checkpoint, replaced)
    assert form_of(checkpoint, sorts=False) == Form()


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
