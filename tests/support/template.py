"""A chat template of K2's form, written for the tests, and what checkpoints are known to vary of it."""

from __future__ import annotations

from pathlib import Path

TEMPLATE = """
{%- macro text(content) -%}
  {%- if content is string -%}{{ content }}
  {%- elif content -%}{%- for part in content -%}{{ part['text'] }}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
  <|im_system|>tool_declare<|im_middle|>{{ tools | tojson(separators=(',', ':')) }}<|im_end|>
{%- endif -%}
{%- for message in messages -%}
  {%- if loop.first and message['role'] != 'system' -%}
    {{- '<|im_system|>system<|im_middle|>You are Kimi, an AI assistant created by Moonshot AI.<|im_end|>\\n' -}}
  {%- endif -%}
  {%- set opening = {'user': 'user', 'assistant': 'assistant'}.get(message['role'], 'system') -%}
  {{- '<|im_' ~ opening ~ '|>' ~ (message.get('name') or message['role']) ~ '<|im_middle|>' -}}
  {%- if message['role'] == 'tool' -%}{{ '## Return of ' ~ message['tool_call_id'] ~ '\\n' }}{%- endif -%}
  {{- text(message['content']) -}}
  {%- if message.get('tool_calls') -%}
    <|tool_calls_section_begin|>
    {%- for call in message['tool_calls'] -%}
      <|tool_call_begin|>{{ call['id'] }}<|tool_call_argument_begin|>{{ call['function']['arguments'] -}}
      <|tool_call_end|>
    {%- endfor -%}
    <|tool_calls_section_end|>
  {%- endif -%}
  <|im_end|>
{%- endfor -%}
<|im_assistant|>assistant<|im_middle|>
"""
NO_BREAK = ("<|im_end|>\\n' -}}", "<|im_end|>' -}}")
SORTED = ("tojson(separators", "tojson(sort_keys=True, separators")


def change(checkpoint: Path, *changes: tuple[str, str]) -> Path:
    path = checkpoint / "chat_template.jinja"
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return checkpoint
