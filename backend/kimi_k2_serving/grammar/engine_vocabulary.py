"""SGLang plugin: K2's control tokens have no text in the engine's grammars, xgrammar caches no parts of grammars,
compiling yields to the scheduler, and a grammar may be advanced over the given beginning of an answer.

Stock SGLang gives xgrammar the spelling of every added token, so a string in a tool call's arguments could contain
`<|im_end|>` as one control id. This hook rebuilds xgrammar's view of the vocabulary after SGLang has made its own. It
does nothing for a tokenizer without K2's markers. Imports SGLang only when it is called.
"""

from __future__ import annotations

from typing import Any

MARKER = "<|tool_calls_section_begin|>"
_TARGET = "sglang.srt.constrained.xgrammar_backend.XGrammarGrammarBackend.__init__"


def register() -> None:
    """Entry point of group `sglang.srt.plugins`."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(_TARGET, reserve, HookType.AFTER)


def reserve(_: Any, backend: Any, tokenizer: Any, *args: Any, **named: Any) -> None:
    """Runs after the backend's constructor: replaces its compiler with one in which control ids have no text."""
    added = tokenizer.get_added_vocab()
    if MARKER not in added:
        return
    from xgrammar import TokenizerInfo, VocabType

    from kimi_k2_serving.grammar.continued import Continuing
    from kimi_k2_serving.grammar.engine_compiles import Compiles
    from kimi_k2_serving.grammar.xgrammar_vocabulary import CONTROL_BYTE, compiler

    info = backend._tokenizer_info
    first = min(added.values())
    pieces = [CONTROL_BYTE + piece if number >= first else piece for number, piece in enumerate(info.decoded_vocab)]
    reserved = TokenizerInfo(
        pieces, VocabType.RAW, vocab_size=info.vocab_size, stop_token_ids=list(info.stop_token_ids)
    )
    backend._tokenizer_info = reserved
    backend.grammar_compiler = compiler(reserved)
    backend.executor.shutdown(wait=False)
    backend.executor = Compiles()
    Continuing(backend, invalid)


def invalid(problem: str) -> Any:
    """SGLang's object for a grammar that can't be used: the request fails with status 400."""
    from sglang.srt.constrained.base_grammar_backend import InvalidGrammarObject

    return InvalidGrammarObject(problem)
