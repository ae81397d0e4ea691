"""`GET /v1/models` and `/v1/models/{id}`, `POST /tokenize` and `/detokenize`. None of them uses the engine."""

from __future__ import annotations

from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.errors import InvalidType, InvalidValue, MissingField
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.tokens import TextDecoder, Vocabulary
from kimi_k2_serving.core.typed_json import Object, as_flag, as_list, as_object, as_string, is_whole
from kimi_k2_serving.frontend import fields, sse
from kimi_k2_serving.frontend.exchange import JsonDocument, LargeDocument, Reply
from kimi_k2_serving.frontend.openai.envelope import token_text
from kimi_k2_serving.frontend.reading import Read, Reader
from kimi_k2_serving.frontend.service import Call, Service

TOKENIZE = frozenset({"model", "prompt", "messages", "tools", "return_token_strs"})
# Options of vLLM and SGLang. Here text is always encoded without control tokens, and a chat always with its template.
TOKENIZE_IGNORED = frozenset({"add_special_tokens", "add_generation_prompt"})
DETOKENIZE = frozenset({"model", "tokens", "skip_special_tokens"})


def model_card(service: Service, name: str) -> Json:
    return {
        "id": name,
        "object": "model",
        # Clients require a number, and the server knows no date of the model.
        "created": 0,
        "owned_by": "moonshotai" if service.model.chats else "unknown",
        "root": service.model.names[0],
        "max_model_len": service.model.context_length,
    }


async def list_models(service: Service, call: Call) -> Reply:
    found: list[Json] = [model_card(each, name) for each in service.together for name in each.model.names]
    return JsonDocument({"object": "list", "data": found})


async def show_model(service: Service, call: Call) -> Reply:
    chosen = service.of_model(call.parameters["id"])
    return JsonDocument(model_card(chosen, chosen.served(call.parameters["id"])))


async def tokenize(service: Service, call: Call) -> Reply:
    return LargeDocument((await service.read(tokenizing, call)).said("document"))


def tokenizing(service: Reader, body: Json) -> Read:
    source = as_object(body, "body")
    fields.check_fields(source, known=TOKENIZE, ignored=TOKENIZE_IGNORED, refused={})
    _served(service, source)
    vocabulary = service.model.vocabulary
    if (source.get("prompt") is None) == (source.get("messages") is None):
        raise MissingField("give exactly one of prompt and messages", field="prompt")
    if source.get("prompt") is not None and source.get("tools") is not None:
        raise InvalidValue("need messages: tools are part of a chat", field="tools")
    if source.get("prompt") is not None:
        ids = vocabulary.encode(as_string(source["prompt"], "prompt"))
    else:
        conversation = read_conversation(messages=source["messages"], tools=source.get("tools"))
        prompt = service.model.rendered(conversation)
        ids = vocabulary.encode_prompt(prompt.segments).tolist()
    tokens: list[Json] = list(ids)
    result: Object = {"tokens": tokens, "count": len(ids), "max_model_len": service.model.context_length}
    if as_flag(source.get("return_token_strs"), "return_token_strs", default=False):
        names = {token: name for name, token in vocabulary.controls.items()}
        result["token_strs"] = [token_text(vocabulary, token, names) for token in ids]
    return Read(echo={"document": sse.encode_json(result)})


async def detokenize(service: Service, call: Call) -> Reply:
    return LargeDocument((await service.read(detokenizing, call)).said("document"))


def detokenizing(service: Reader, body: Json) -> Read:
    source = as_object(body, "body")
    fields.check_fields(source, known=DETOKENIZE, ignored=(), refused={})
    _served(service, source)
    vocabulary = service.model.vocabulary
    if "tokens" not in source:
        raise MissingField("is required", field="tokens")
    ids: list[int] = []
    for i, token in enumerate(as_list(source["tokens"], "tokens")):
        if isinstance(token, bool) or not isinstance(token, int | float) or not is_whole(token):
            raise InvalidType("must be an integer", field=f"tokens[{i}]")
        if not 0 <= token < vocabulary.size:
            raise InvalidValue(f"must be between 0 and {vocabulary.size - 1}", field=f"tokens[{i}]")
        ids.append(int(token))
    hidden = as_flag(source.get("skip_special_tokens"), "skip_special_tokens", default=False)
    text = _text(vocabulary, ids, hidden=hidden)
    return Read(echo={"document": sse.encode_json({"prompt": text, "text": text})})


def _text(vocabulary: Vocabulary, ids: list[int], *, hidden: bool) -> str:
    """The text of `ids`. Control tokens appear by their names, unless `hidden`."""
    names = {} if hidden else {token: name for name, token in vocabulary.controls.items()}
    written: list[str] = []
    decoder = TextDecoder(vocabulary)
    for token in ids:
        written.append(decoder.finish() + names[token] if token in names else decoder.feed((token,)))
    return "".join((*written, decoder.finish()))


def _served(service: Reader, source: Object) -> None:
    """Check `model`, which is optional here."""
    if source.get("model") is not None:
        service.served(source["model"])
