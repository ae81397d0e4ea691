"""The engine's grammars see control ids as no text, whatever its tokenizer spells them as."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import xgrammar

from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.grammar import engine_vocabulary
from kimi_k2_serving.grammar.engine_compiles import Compiles
from tests.grammar.prover import Prover, request, tool


class _Tokenizer:
    def __init__(self, added: dict[str, int]) -> None:
        self._added = added

    def get_added_vocab(self) -> dict[str, int]:
        return self._added


def _backend(vocabulary: Vocabulary) -> SimpleNamespace:
    """What stock SGLang makes: every token spelled by its name."""
    names = {number: name for name, number in vocabulary.controls.items()}
    pieces = [
        names[number].encode() if number in names else vocabulary.token_bytes(number)
        for number in range(vocabulary.size)
    ]
    info = xgrammar.TokenizerInfo(
        pieces, xgrammar.VocabType.RAW, vocab_size=vocabulary.size, stop_token_ids=list(vocabulary.stop_ids)
    )
    return SimpleNamespace(
        _tokenizer_info=info,
        grammar_compiler=xgrammar.GrammarCompiler(info),
        executor=ThreadPoolExecutor(),
        dispatch_structural_tag=None,
        set_cache=None,
    )


def _control_fits_a_string(backend: SimpleNamespace, prover: Prover) -> bool:
    vocabulary = prover.vocabulary
    schema = {"type": "object", "properties": {"s": {"type": "string"}}, "required": ["s"]}
    tag = prover.constraint(request(tool(schema))).structural_tag
    matcher = xgrammar.GrammarMatcher(backend.grammar_compiler.compile_structural_tag(tag))
    for token in (
        vocabulary.control("<|tool_calls_section_begin|>"),
        vocabulary.control("<|tool_call_begin|>"),
        *vocabulary.encode("functions.f:0"),
        vocabulary.control("<|tool_call_argument_begin|>"),
        *vocabulary.encode('{"s":"'),
    ):
        assert matcher.accept_token(token)
    return bool(matcher.accept_token(vocabulary.control("<|im_user|>")))


def test_reserved_ids_do_not_fit_a_string(prover: Prover) -> None:
    backend = _backend(prover.vocabulary)
    assert _control_fits_a_string(backend, prover), "without the hook they do: that is why it is there"
    engine_vocabulary.reserve(None, backend, _Tokenizer(dict(prover.vocabulary.controls)), prover.vocabulary.size)
    assert not _control_fits_a_string(backend, prover)


def test_another_models_tokenizer_is_left_alone(prover: Prover) -> None:
    backend = _backend(prover.vocabulary)
    before = backend.grammar_compiler
    engine_vocabulary.reserve(None, backend, _Tokenizer({"<tool_call>": 300}), prover.vocabulary.size)
    assert backend.grammar_compiler is before


def test_the_engine_compiles_in_lanes_of_ours(prover: Prover) -> None:
    backend = _backend(prover.vocabulary)
    engine_vocabulary.reserve(None, backend, _Tokenizer(dict(prover.vocabulary.controls)), prover.vocabulary.size)
    assert isinstance(backend.executor, Compiles)
