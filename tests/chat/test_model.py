"""One model for the ensemble and the frontend: the same engine.yaml, the same prompt, sampling and constraint."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from kimi_k2_serving.chat.model import ChatModel, recommended
from kimi_k2_serving.chat.prompt import PreparedPrompt, with_constraint
from kimi_k2_serving.core.errors import ContextLengthExceeded, InvalidValue
from kimi_k2_serving.core.messages import Conversation, Message, Role, Tool, ToolChoice, ToolMode
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.core.tool_calls import ToolCallParser
from kimi_k2_serving.engine.config import EngineConfig, engine_of_preset, load_engine_config
from kimi_k2_serving.frontend.server import parse_flags
from kimi_k2_serving.grammar.constraint import Constraint
from kimi_k2_serving.json_schema.bounds import Bounds
from kimi_k2_serving.reading.desk import Served
from tests.support.demo import demo
from tests.support.enforcer import LOOSE as COMMENT
from tests.support.enforcer import InlineEnforcer, chat_model
from tests.support.vocabulary import small_checkpoint, small_vocabulary

__all__ = ["demo", "small_checkpoint", "small_vocabulary"]

LOOSE = {"$comment": COMMENT, "type": "object", "properties": {"x": {"type": "string"}}}


def conversation(*tools: Tool, choice: ToolChoice = ToolChoice()) -> Conversation:  # noqa: B008 - frozen
    return Conversation((Message(Role.USER, "hi"),), tools, choice)


def tool(name: str, parameters: object = None) -> Tool:
    return Tool(name, {"type": "function", "function": {"name": name}}, parameters)  # type: ignore[arg-type]


@pytest.fixture
def model(small_vocabulary: Vocabulary) -> ChatModel:
    return chat_model(small_vocabulary)


def asked(model: ChatModel, conversation: Conversation, given: dict[str, Any]) -> PreparedPrompt:
    """With its constraint."""
    constraint = model.enforcer.ask_job(model.enforcer.job(conversation)).result()
    return with_constraint(model.prompt(conversation, given), constraint, conversation)


def repository(directory: Path, engine: str) -> Path:
    """A model repository whose engine.yaml overrides this."""
    version = directory / "kimi_k2_engine" / "1"
    version.mkdir(parents=True)
    text = f"checkpoint: ${{KIMI_K2_CHECKPOINT}}\npreset: ${{KIMI_K2_PRESET:-demo}}\nengine: {engine}\n"
    (version / "engine.yaml").write_text(text)
    return directory


def loaded(config: EngineConfig) -> ChatModel:
    found = ChatModel.load(config, names=("m",))
    found.close()
    return found


def test_an_override_of_the_context_is_heeded_by_the_ensemble_and_the_frontend(demo: Path, tmp_path: Path) -> None:
    where = repository(tmp_path, "{context_length: 777}")
    environ = {"KIMI_K2_CHECKPOINT": str(demo)}
    ensemble = load_engine_config(where / "kimi_k2_engine" / "1" / "engine.yaml", environ)
    frontend = parse_flags(["--model-repository", str(where)], environ).engine
    assert frontend == ensemble
    assert loaded(frontend).context_length == 777
    flags = ["--checkpoint", str(demo), "--preset", "demo-random", "--model-repository", str(where)]
    assert parse_flags(flags, {}).engine.preset.name == "demo-random"


def test_without_a_repository_the_preset_says_how_long_the_context_is(demo: Path) -> None:
    config = parse_flags(["--checkpoint", str(demo)], {}).engine
    assert config == engine_of_preset(demo, "demo", {})
    assert loaded(config).context_length == config.server_args["context_length"]


@pytest.mark.parametrize(("engine", "heeded"), [("{}", False), ("{enable_deterministic_inference: true}", True)])
def test_seeds_are_heeded_where_the_engine_draws_by_them(demo: Path, tmp_path: Path, engine: str, heeded: bool) -> None:
    where = repository(tmp_path, engine)
    model = loaded(parse_flags(["--model-repository", str(where)], {"KIMI_K2_CHECKPOINT": str(demo)}).engine)
    assert model.heeds_seeds is heeded
    # A process that reads for others says the same.
    assert Served.decode(Served.of(model, demo, Bounds.demo()).encode()).model().heeds_seeds is heeded


def test_what_is_no_k2_checkpoint_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "other"}))
    with pytest.raises(InvalidValue):
        ChatModel.load(engine_of_preset(tmp_path, "demo", {}))


def test_what_the_checkpoint_recommends_is_the_default_and_the_client_wins(model: ChatModel, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6, "eos_token_id": 5, "top_p": null}')
    assert recommended(tmp_path) == {"temperature": 0.6}
    assert recommended(tmp_path / "none") == {}
    assert asked(model, conversation(), {}).sampling["temperature"] == 0.6
    assert asked(model, conversation(), {"temperature": 0.1}).sampling["temperature"] == 0.1


def test_a_prompt_without_tools_has_no_grammar_and_its_stops_are_the_engine_s(model: ChatModel) -> None:
    prompt = asked(model, conversation(), {"stop": ["END"]})
    assert "structural_tag" not in prompt.sampling
    assert prompt.sampling["stop"] == ["END"]
    assert prompt.stops == ("END",)
    assert set(model.vocabulary.stop_ids) <= set(prompt.sampling["stop_token_ids"])


def test_with_tools_the_stops_are_the_parser_s(model: ChatModel) -> None:
    prompt = asked(model, conversation(tool("f")), {"stop": ["END"]})
    assert "functions.f:" in prompt.sampling["structural_tag"]
    assert "stop" not in prompt.sampling
    assert (prompt.stops, prompt.tools) == (("END",), ("f",))
    assert isinstance(model.parser(prompt), ToolCallParser)


def test_a_named_choice_is_one_call_and_none_is_no_call(model: ChatModel) -> None:
    named = asked(model, conversation(tool("f"), choice=ToolChoice(ToolMode.NAMED, "f")), {})
    assert not named.parallel
    none = asked(model, conversation(tool("f"), choice=ToolChoice(ToolMode.NONE)), {})
    assert none.tools == ()
    assert none.ids == asked(model, conversation(tool("f")), {}).ids


def test_what_was_relaxed_goes_along(model: ChatModel) -> None:
    assert asked(model, conversation(tool("f")), {}).relaxed is None
    relaxed = asked(model, conversation(tool("f", LOOSE)), {}).relaxed
    assert relaxed is not None
    assert relaxed.tools == {"f": LOOSE}


class Unasked(InlineEnforcer):
    def job(self, conversation: Conversation) -> bytes:
        raise AssertionError

    def ask_job(self, job: bytes) -> Future[Constraint]:
        raise AssertionError


def test_a_prompt_waits_for_no_constraint(small_vocabulary: Vocabulary) -> None:
    model = ChatModel((), small_vocabulary, 4096, {}, Unasked(small_vocabulary))
    assert model.prompt(conversation(tool("f")), {}).ids


def test_too_long_a_prompt_is_refused_before_its_schemas_are_looked_at(small_vocabulary: Vocabulary) -> None:
    with pytest.raises(ContextLengthExceeded):
        ChatModel((), small_vocabulary, 5, {}, Unasked(small_vocabulary)).prompt(conversation(tool("f")), {})


def test_the_prompt_as_text_and_its_count_are_those_of_the_ids(model: ChatModel) -> None:
    whole = conversation(tool("f"))
    assert model.count(whole) == len(asked(model, whole, {}).ids)
    assert model.text(whole).endswith("<|im_assistant|>assistant<|im_middle|>")
