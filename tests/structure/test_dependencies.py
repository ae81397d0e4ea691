"""Every import in the tree follows the rules of docs/architecture.md on which part may use which."""

from __future__ import annotations

import ast

from tests.structure.tree import PACKAGE, PRODUCTION, Module, modules, third_party

# part -> the other parts of the package that it may use
USES = {
    "settings": ("core",),
    "logs": ("core", "settings"),
    "core": (),
    "json_schema": ("core",),
    "grammar": ("core", "json_schema"),
    "enforcer": ("core", "json_schema", "grammar"),
    "engine": ("core", "logs"),
    "plan": ("core", "engine"),
    "demo": ("core", "engine", "json_schema"),
    "chat": ("core", "json_schema", "grammar", "enforcer", "engine"),
    "reading": ("core", "json_schema", "grammar", "enforcer", "engine", "chat", "logs"),
    "triton": ("core", "json_schema", "grammar", "enforcer", "engine", "chat", "reading", "settings", "logs"),
    "frontend": ("core", "json_schema", "grammar", "enforcer", "engine", "chat", "reading", "settings", "logs"),
    "launch": ("core", "engine", "plan", "settings", "logs"),
    "backend": ("triton",),
    "model_repository": ("core", "engine", "settings", "triton"),
    "kimi_k2_client": ("core",),
    "kimi_k2_cli": (
        "core",
        "demo",
        "json_schema",
        "grammar",
        "enforcer",
        "engine",
        "launch",
        "plan",
        "settings",
        "logs",
    ),
}
# What the client may use: the modules of core with the types that appear in its own answers, and the version.
PUBLIC = ("core.errors", "core.events", "core.messages", "__version__")
# part -> the installed packages that it may use; a package needed by nothing else is named once
INSTALLED = {
    "settings": (),
    "logs": (),
    "core": ("tiktoken",),
    "json_schema": ("jsonschema",),
    "grammar": ("msgspec", "sglang", "xgrammar"),
    "enforcer": ("msgspec", "xgrammar"),
    "engine": ("fastapi", "jinja2", "msgspec", "setproctitle", "sglang", "tokenizers", "torch", "torchvision", "yaml"),
    "plan": (),
    "demo": ("httpx", "jsonschema", "numpy", "safetensors", "tokenizers", "torch"),
    "chat": (),
    "reading": ("msgspec",),
    "triton": ("numpy", "triton_python_backend_utils"),
    "frontend": (
        *(
            "grpc",
            "h11",
            "httpx",
            "msgspec",
            "numpy",
            "opentelemetry",
            "prometheus_client",
            "starlette",
            "tritonclient",
        ),
        "uvicorn",
    ),
    "launch": ("psutil", "torch"),
    "backend": (),
    "model_repository": ("triton_python_backend_utils",),
    "kimi_k2_client": ("grpc", "httpx", "numpy", "tritonclient"),
    "kimi_k2_cli": ("httpx", "jsonschema", "kimi_k2_client", "numpy", "prompt_toolkit", "xgrammar"),
}
# Modules and calls that run code from their input, and modules that can take more than linear time for it.
DANGEROUS_MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "cloudpickle"}
DANGEROUS_CALLS = {"eval", "exec", "compile", "__import__"}
BACKTRACKING = {"re", "regex"}
SETTINGS = f"{PACKAGE}.settings"


def parts(module: Module) -> set[str]:
    """Dotted names of imported modules of this package, without its own name: `core.errors`."""
    return {name.removeprefix(f"{PACKAGE}.") for name in module.imports() if name.startswith(f"{PACKAGE}.")}


def production() -> list[Module]:
    return [module for module in modules(*PRODUCTION) if module.name != PACKAGE]


def test_every_part_is_in_the_picture() -> None:
    assert {module.group for module in production()} <= set(USES)


def test_dependencies_point_one_way() -> None:
    wrong = {
        f"{module} -> {name}"
        for module in production()
        for name in parts(module)
        if name.split(".")[0] not in {module.group, "__version__", *USES[module.group]}
    }
    assert wrong == set()


def test_each_part_uses_only_its_own_installed_packages() -> None:
    wrong = {
        f"{module} -> {package}"
        for module in production()
        for package in {name.split(".")[0] for name in module.imports() if third_party(name)}
        if package not in {PACKAGE, module.name.split(".")[0], *INSTALLED[module.group]}
    }
    assert wrong == set()


def test_the_client_knows_only_core_s_public_types() -> None:
    clients = [module for module in production() if module.group == "kimi_k2_client"]
    assert {f"{module} -> {name}" for module in clients for name in parts(module) if not _public(name)} == set()


def _public(name: str) -> bool:
    return any(name == public or name.startswith(f"{public}.") for public in PUBLIC)


def test_only_settings_reads_the_environment() -> None:
    readers = [str(module) for module in production() if module.name != SETTINGS and _reads_environment(module)]
    assert readers == []


def _reads_environment(module: Module) -> bool:
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    attributes = {
        node.attr
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
    }
    return bool(names & attributes) or any(name in {f"os.{each}" for each in names} for name in module.imports())


def test_nothing_runs_what_it_reads() -> None:
    imported = {f"{module} -> {name}" for module in production() for name in _packages(module) & DANGEROUS_MODULES}
    called = {
        f"{module}:{node.lineno}"
        for module in production()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in DANGEROUS_CALLS
    }
    assert (imported, called) == (set(), set())


def test_core_reads_text_without_regular_expressions() -> None:
    core = [module for module in production() if module.group == "core"]
    assert core
    assert {f"{module} -> {name}" for module in core for name in _packages(module) & BACKTRACKING} == set()


def _packages(module: Module) -> set[str]:
    return {name.split(".")[0] for name in module.imports()}
