# SPDX-License-Identifier: MIT
"""``__all__`` equals what is public, in every module of the core."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import xloop

ROOT = Path(xloop.__file__).parent

#: Public by another list than ``__all__``.
EXEMPT = {
    "__main__.py": "is run, never imported",
    "cli/": "what is public is the command line",
    "host/darwin.py": "the functions of xloop.host.base.Host",
    "host/linux.py": "the functions of xloop.host.base.Host",
    "host/windows.py": "the functions of xloop.host.base.Host",
    "host/windows_abi.py": "structures and numbers under their names in ntifs.h",
    "host/windows_api.py": "only Windows can import it: the calls of ntdll that the next two use",
    "host/windows_dirs.py": "only Windows can import it",
    "host/windows_mounts.py": "only Windows can import it",
    "host/windows_refs.py": "only Windows can import it",
    "testing/": "what is public is in its __init__.py",
}

PATHS = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")]
MODULES = sorted(path for path in PATHS if not path.startswith(tuple(EXEMPT)))
MODULES.append("testing/__init__.py")


def statements(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return the statements of a module, those in its if and try blocks included."""
    found = []
    for node in body:
        found.append(node)
        if isinstance(node, ast.If | ast.Try):
            for block in ("body", "orelse", "finalbody"):
                found += statements(getattr(node, block, []))
    return found


def names_of(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Return the names that a module makes public, and those that it may: constants and imports."""
    public: list[str] = []
    optional: list[str] = []
    for node in statements(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            public.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            optional += [name for name in names if name.isupper()]
            public += [name for name in names if not name.isupper()]
        elif isinstance(node, ast.ImportFrom):
            optional += [alias.asname or alias.name for alias in node.names]
    return {name for name in public if not name.startswith("_")}, set(optional)


@pytest.mark.parametrize("path", MODULES)
def test_all_is_what_is_public(path: str) -> None:
    name = "xloop." + path.removesuffix(".py").replace("/", ".")
    module = importlib.import_module(name.removesuffix(".__init__"))
    public, optional = names_of(ast.parse((ROOT / path).read_text(encoding="ascii")))
    exports = [export for export in getattr(module, "__all__", []) if not export.startswith("__")]
    assert sorted(exports) == sorted(set(exports))
    assert public <= set(exports) <= public | optional
    for export in exports:
        assert getattr(module, export) is not None


def test_the_package_exports_what_it_declares_to_type_checkers() -> None:
    """The names are imported when they are used; a type checker reads another list of them."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="ascii"))
    _, declared = names_of(tree)
    exports = {name for name in xloop.__all__ if not name.startswith("__")}
    assert exports == declared - {"annotations", "TYPE_CHECKING", "_HOMES"}
