"""What `direct_engine` overrides and relies on is in the pinned SGLang, whose source is read here."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

from kimi_k2_serving import engine

OURS = Path(engine.__path__[0]) / "direct_engine.py"


@cache
def tree(module: str = "") -> ast.Module:
    if not module:
        return ast.parse(OURS.read_text())
    # Without importing SGLang, which takes half a minute.
    found = importlib.util.find_spec("sglang")
    assert found is not None
    assert found.submodule_search_locations
    return ast.parse((Path(found.submodule_search_locations[0]) / "srt" / module).read_text())


def methods(name: str, module: str = "") -> dict[str, ast.AST]:
    (found,) = [each for each in ast.walk(tree(module)) if isinstance(each, ast.ClassDef) and each.name == name]
    return {each.name: each for each in found.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def attributes(node: ast.AST, of: str, kind: type[ast.expr_context] = ast.Load) -> set[str]:
    return {
        each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute)
        and isinstance(each.value, ast.Name)
        and each.value.id == of
        and isinstance(each.ctx, kind)
    }


def arguments(node: ast.AST) -> list[str]:
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    return [each.arg for each in node.args.args]


def test_each_overridden_method_of_the_tokenizer_manager_is_there_with_the_same_arguments() -> None:
    theirs = methods("TokenizerManager", "managers/tokenizer_manager.py")
    for name, ours in methods("DirectManager").items():
        if name not in ("_forget", "_trace"):
            assert arguments(theirs[name]) == arguments(ours), name
        assert attributes(ours, "self") - methods("DirectManager").keys() - {"deliver", "ended"} <= {
            *theirs,
            *(each for method in theirs.values() for each in attributes(method, "self", ast.Store)),
        }


def test_the_engine_takes_its_tokenizer_manager_and_starts_its_detokenizer_by_the_overridden_names() -> None:
    source = ast.unparse(tree("entrypoints/engine.py"))
    assert "cls._launch_detokenizer_subprocesses(server_args=" in source
    assert "init_tokenizer_manager_func=self.init_tokenizer_manager_func" in source
    assert "_launch_detokenizer_subprocesses" in methods("Engine", "entrypoints/engine.py")


def test_the_detokenizer_as_an_object_has_everything_that_decoding_reads() -> None:
    theirs = methods("DetokenizerManager", "managers/detokenizer_manager.py")
    read: set[str] = set()
    waiting = ["_decode_batch_token_id_output"]
    while waiting:
        for name in attributes(theirs[waiting.pop()], "self") - read:
            read.add(name)
            waiting += [name] if name in theirs else []
    assert read - theirs.keys() <= attributes(methods("BatchDecoder")["__init__"], "self", ast.Store)


def test_decoding_gets_every_field_of_a_batch_that_it_reads() -> None:
    theirs = methods("DetokenizerManager", "managers/detokenizer_manager.py")["_decode_batch_token_id_output"]
    ours = methods("BatchDecoder")["decode"]
    given = {each.value for each in ast.walk(ours) if isinstance(each, ast.Constant)}
    assert attributes(theirs, "recv_obj") <= given


def test_ids_are_awaited_where_the_schedulers_send_them() -> None:
    """With data-parallel attention each scheduler computes that address by itself."""
    channels = ast.unparse(tree("managers/scheduler_components/ipc_channels.py"))
    assert "zmq.PUSH, port_args.detokenizer_ipc_name, False" in channels
    ours = ast.unparse(methods("DirectManager")["init_ipc_channels"])
    assert "self.recv_from_detokenizer.bind(port_args.detokenizer_ipc_name)" in ours
    theirs = ast.unparse(methods("TokenizerManager", "managers/tokenizer_manager.py")["init_ipc_channels"])
    assert "self.recv_from_detokenizer = get_zmq_socket(context, zmq.PULL" in theirs
