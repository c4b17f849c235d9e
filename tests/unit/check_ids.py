"""The ids of all checks that the product can make, read from its source.

An id that is put together at run time is a pattern: `"%s.train.loss" % label` is `*.train.loss`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tests.conftest import ROOT

#: Functions that make a check or a finding, with the id as their first argument or as `id`.
MAKERS = ("check", "_check", "attempt", "Check", "Finding", "_finding")

#: Where checks come from: the payload, the plan's findings, the comparison, what becomes of a plan's actions.
SOURCES = ("payload/**/*.py", "plan/driver.py", "plan/drift.py", "report/*.py", "run/outcome.py", "run/payload_run.py")

#: Ids of a variable that only the caller knows; each is one of the ids that are found elsewhere.
UNKNOWN = "*"

Names = dict[str, list[ast.expr]]


@cache
def patterns() -> frozenset[str]:
    """A pattern for each id, with `gpu*` for cards."""
    files = [path for source in SOURCES for path in (ROOT / "llmprov").glob(source)]
    return frozenset(pattern for path in files for pattern in _of_file(path) if pattern != UNKNOWN)


def _of_file(path: Path) -> Iterable[str]:
    prefix = "drift." if path.name == "drift.py" else ""
    for function in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(function, ast.FunctionDef) and function.name not in MAKERS:
            names = _assigned(function)
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and _called(call) in MAKERS:
                    for pattern in _texts(_id_of(call), names):
                        yield pattern if pattern.startswith(prefix) else prefix + pattern


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _id_of(call: ast.Call) -> ast.expr | None:
    named = next((word.value for word in call.keywords if word.arg == "id"), None)
    return named or next(iter(call.args), None)


def _assigned(function: ast.FunctionDef) -> Names:
    """Variables of a function, its loops and the defaults of its parameters -> what they may be."""
    names: Names = {}
    pairs: list[tuple[ast.expr, ast.expr]] = []
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            pairs += [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
            pairs += [(node.target, value) for value in node.iter.elts]
        elif isinstance(node, ast.arguments):
            for argument, default in zip(node.args[::-1], node.defaults[::-1], strict=False):
                names.setdefault(argument.arg, []).append(default)
    for target, value in pairs:
        both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        for left, right in zip(target.elts, value.elts, strict=True) if both else [(target, value)]:
            if isinstance(left, ast.Name):
                names.setdefault(left.id, []).append(right)
    return names


def _texts(node: ast.expr | None, names: Names) -> set[str]:
    """The texts that an expression may be, with a star for what is not known before it runs."""
    match node:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.JoinedStr(values=values):
            return {"".join(str(v.value) if isinstance(v, ast.Constant) else UNKNOWN for v in values)}
        case ast.BinOp(op=ast.Mod(), left=left):
            return {re.sub(r"%\w", "*", text) for text in _texts(left, names)}
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return {first + second for first in _texts(left, names) for second in _texts(right, names)}
        case ast.IfExp(body=body, orelse=other):
            return _texts(body, names) | _texts(other, names)
        case ast.Call(func=ast.Attribute(attr="id"), args=[name]):
            return {f"gpu*.{text}" for text in _texts(name, names)}
        case ast.Call(func=ast.Name(id="check_id"), args=[text]):
            return _texts(text, names)
        case ast.Name(id=name) if name in names:
            return {text for value in names[name] for text in _texts(value, {})}
    return {UNKNOWN}
