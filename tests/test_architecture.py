"""The house as it was drawn: imports go down, the root is a table of contents, and nothing prints."""

from __future__ import annotations

import ast
import graphlib

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import mltrace


ROOT = Path(mltrace.__file__).parent

# From the ground up. A module may import those of its own layer and of the layers before it.
LAYERS = (
    {
        "exceptions",
        "_version",
        "_clock",
        "_checks",
        "_records",
        "_texts",
        "_secret_shapes",
        "_redaction",
        "_watched",
    },
    {"_guard", "_addresses", "_files", "_digests", "_spool", "_provenance"},
    {"_known_types", "_registered", "_forms", "_errors", "_numbers", "_values", "_prices"},
    {"bundles", "_flavors"},
    {"backends"},
    {"_models"},
    {"delivery"},
    {"_config"},
    {"_wording", "_survey", "_diagnosis"},
    {"_context"},
    {
        "_artifacts",
        "_by_hand",
        "_emitter",
        "_fluent",
        "_inert",
        "_joint",
        "_points",
        "_runs",
        "_sampling",
        "_spans",
    },
    {"_binding", "_kept", "_llm", "_instrument", "_streams", "_observed", "_traced", "_wrappers"},
    {"_calls", "_decorators"},
    {"registry", "feedback", "monitoring", "testing", "notebook", "integrations", "bridge"},
    {"cli", "__main__"},
    {"__init__"},
)

# Imported inside a function, because the module needs an optional package or costs too much at import.
LAZY = {
    ("_config", "delivery.sender"),
    ("delivery", "delivery.collector"),
    ("delivery", "delivery.rest"),
    ("delivery", "delivery.sdk"),
    ("delivery.rest", "delivery.otlp"),
    ("delivery.rest", "delivery.sdk"),
    ("delivery.reading", "delivery.rest_reading"),
    ("delivery.reading", "delivery.sdk_reading"),
}

# What no other module imports: users do.
DOORS = {
    "__init__",
    "__main__",
    "bridge",
    "bridge.artifacts",
    "bridge.registry",
    "feedback",
    "registry",
    "testing",
    "testing.contracts",
    "integrations",
    "integrations.asgi",
}

# Which packages of others a module may know; msgspec is for all.
OTHERS = {
    "_config": {"platformdirs"},
    "_context": {"contextvars_extras"},
    "_decorators": {"typing_extensions"},  # for type checkers alone, which bring it
    "_guard": {"structlog"},
    "_observed": {"wrapt"},
    "_prices": {"tomllib"},  # Python's own, since 3.11
    "bundles": {"cloudpickle", "joblib"},
    "registry": {"platformdirs"},
    "_traced": {"wrapt"},
    "bridge": {"mlflow"},
    "cli": {"typer", "rich"},
    "delivery.otlp": {"google", "opentelemetry"},
    "delivery.sdk": {"mlflow"},
    "delivery.sdk_reading": {"mlflow"},
    "feedback": {"pandas"},
    "delivery.sdk_models": {"mlflow"},
    "testing": {"pytest", "hypothesis"},
}


class Import(NamedTuple):
    """One import: the module that has it, what it imports, and whether it does so inside a function."""

    importer: str
    imported: str
    lazy: bool
    internal: bool


def module_name(file: Path) -> str:
    """Return the name below the package: ``_runs``, ``backends``, ``delivery.rest``, ``__init__``."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in FILES.items()}


def imports() -> list[Import]:
    return [found for name, tree in TREES.items() for found in imports_of(name, tree, lazy=False)]


def imports_of(name: str, node: ast.AST, *, lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(name, alias.name, lazy, alias.name.split(".")[0] == "mltrace")
        elif isinstance(child, ast.ImportFrom) and child.level == 0:
            yield Import(name, str(child.module), lazy, str(child.module).split(".")[0] == "mltrace")
        elif isinstance(child, ast.ImportFrom):
            for imported in relative(name, child):
                yield Import(name, imported, lazy, True)
        else:
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports_of(name, child, lazy=lazy or inside)


def relative(name: str, node: ast.ImportFrom) -> set[str]:
    """Return the modules that ``from .x import y`` in the module *name* means."""
    package = [] if name == "__init__" else name.split(".")
    if FILES[name].name != "__init__.py":
        package = package[:-1]
    base = [*package[: len(package) - (node.level - 1)], *(node.module.split(".") if node.module else [])]
    found = set()
    for alias in node.names:
        submodule = ".".join([*base, alias.name])
        found.add(submodule if submodule in FILES else ".".join(base) or "__init__")
    return found


def layer(name: str) -> int:
    return next(level for level, names in enumerate(LAYERS) if name.split(".")[0] in names)


def test_every_module_has_a_layer() -> None:
    """A new module is put into the table above before anything imports it."""
    known = set().union(*LAYERS)
    assert [] == [name for name in FILES if name.split(".")[0] not in known]


def test_imports_go_down() -> None:
    """No module imports one of a layer above its own."""
    upwards = [
        f"{found.importer} imports {found.imported}"
        for found in imports()
        if found.internal and layer(found.imported) > layer(found.importer)
    ]
    assert [] == upwards


def test_imports_make_no_cycle() -> None:
    """Within a layer too, imports have an order."""
    graph: dict[str, set[str]] = {}
    for found in imports():
        if found.internal and (found.importer, found.imported) not in LAZY:
            graph.setdefault(found.importer, set()).add(found.imported)
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    inside = {imported for _, imported in LAZY}.union(*graph.values())
    assert DOORS == FILES.keys() - inside


def test_an_import_inside_a_function_has_a_reason() -> None:
    """Internal modules are imported at the top, save those that need an optional package."""
    lazy = {(found.importer, found.imported) for found in imports() if found.internal and found.lazy}
    assert set() == lazy - LAZY


def test_imports_are_relative() -> None:
    """The package does not name itself, so that it can be vendored."""
    assert [] == [found for found in imports() if found.internal and found.imported.startswith("mltrace")]


def test_packages_of_others_stay_where_they_belong() -> None:
    """Each dependency but msgspec is known to one module."""
    import sys

    known = {*sys.stdlib_module_names, "msgspec", "mltrace"}
    foreign: dict[str, set[str]] = {}
    for found in imports():
        package = found.imported.split(".")[0]
        if not found.internal and package not in known:
            foreign.setdefault(found.importer, set()).add(package)
    unexpected = {name: packages - allowed(name) for name, packages in foreign.items()}
    assert {} == {name: packages for name, packages in unexpected.items() if packages}


def allowed(name: str) -> set[str]:
    return OTHERS.get(name, OTHERS.get(name.split(".")[0], set()))


LATE = [
    "structlog",
    "mlflow",
    "opentelemetry",
    "google",
    "typer",
    "rich",
    "platformdirs",
    "http",
    "hypothesis",
    "pytest",
]


@pytest.mark.parametrize("package", LATE)
def test_what_the_import_must_not_cost_is_imported_late(package: str) -> None:
    """What `import mltrace` must not bring in is imported inside functions, or by modules that are."""
    late = {imported for _, imported in LAZY} | {"delivery.transport", "cli", "__main__", "bridge"}
    only_late = [found.importer for found in imports() if found.imported == "delivery.transport"]
    assert late >= set(only_late)
    early = [
        found.importer
        for found in imports()
        if found.imported.split(".")[0] == package
        and not found.lazy
        and not late & {found.importer, found.importer.split(".")[0]}
        and not found.importer.startswith("testing.")
    ]
    assert [] == early


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def test_nothing_prints() -> None:
    """Only the command line prints, and, to stderr, the last words at exit, when logging may be gone."""
    printing = {
        name: found for name, tree in TREES.items() if name != "cli" and (found := calls(tree, "print"))
    }
    assert ["_config"] == list(printing)
    [last_words] = printing["_config"]
    assert ["sys.stderr"] == [ast.unparse(word.value) for word in last_words.keywords if word.arg == "file"]


def test_no_handler_is_bare() -> None:
    """``except:`` would swallow an interrupt; what catches `BaseException` names it."""
    bare = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert [] == bare


def test_every_module_says_what_it_is() -> None:
    """Each module begins with a docstring."""
    assert [] == [name for name, tree in TREES.items() if not ast.get_docstring(tree)]


# The root.

PROMISED = {
    *(
        "track_run",
        "log_llm_call",
        "log_prediction",
        "log_training_run",
        "log_evaluation_metrics",
        "start_run",
    ),
    *("Run", "current_run", "log_param", "log_params", "log_metric", "log_metrics", "set_tag", "set_tags"),
    *("log_text", "log_dict", "log_figure", "log_artifact", "wrap", "carrier", "attach"),
    *("register_renderer", "register_extractor", "register_price", "load_prices", "LlmResponse", "Redact"),
    *("configure", "init_mlflow", "flush", "shutdown", "status", "FlushReport", "SpoolStatus"),
}


def test_the_root_is_a_table_of_contents() -> None:
    """`__init__` has imports and `__all__`, which is sorted and names all that is imported."""
    docstring, *statements = TREES["__init__"].body
    imported = {
        alias.asname or alias.name
        for node in statements
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(mltrace.__all__) == mltrace.__all__
    assert imported == set(mltrace.__all__)
    others = [node for node in statements if not isinstance(node, (ast.ImportFrom, ast.Assign))]
    assert ([], True) == (others, isinstance(docstring, ast.Expr))


def test_everything_public_can_be_imported() -> None:
    """What is promised is there, and each public thing but the version has a docstring."""
    assert PROMISED <= set(mltrace.__all__)
    assert [] == [
        name for name in mltrace.__all__ if name != "__version__" and not getattr(mltrace, name).__doc__
    ]


def test_the_package_is_typed() -> None:
    """The marker that type checkers look for is part of the package."""
    assert (ROOT / "py.typed").is_file()
