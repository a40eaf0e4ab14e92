"""No behaviour hangs on the text of a sentence: sentences are for people, and change.

What code has to know of an error or of a reason is a class, a code or a field beside the sentence.
This reads the source for the ways in which code is tempted to look into a sentence instead.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("memfs", "daemon/memfs_daemon", "tools/memfs_tools")

SENTENCES = {"reason", "message", "detail", "note", "refusal", "text_of_error", "strerror", "cause"}
"""Names of what holds a sentence."""

LOOKS = {
    *("startswith", "endswith", "find", "index", "search", "match", "fullmatch"),
    *("compile", "findall", "finditer", "partition", "rpartition", "removeprefix", "removesuffix"),
}
"""Methods that look into a text."""

PROSE = re.compile(r"[A-Za-z]{2,}[,;:]? [a-z]{2,}")
"""Two words: no key, code or unit has that."""

STATEMENT = re.compile(r"\b(create|insert|update|select)\b|^form blob$")
"""Statements of SQL are no English."""

EXCUSED = {
    ("memfs/stores/gcs.py", "str(error).startswith('Forbidden')"): (
        "gcsfs makes a plain OSError of a 403, and says so in its text alone"
    ),
    ("memfs/stores/s3_errors.py", "word in told"): (
        "stores that know no checksums name the header in the text of their own error"
    ),
    ("daemon/memfs_daemon/pyfuse3/driver.py", "'fuse_reply_* failed with' in message"): (
        "a line of libfuse's log, which has no code"
    ),
    (
        "daemon/memfs_daemon/pyfuse3/driver.py",
        "message.endswith((os.strerror(errno.ENOENT), os.strerror(errno.ENODEV)))",
    ): "likewise",
    ("tools/memfs_tools/web/app.py", "message.partition(': ')"): (
        "takes a path from what people read; nothing is decided"
    ),
    ("memfs/metadata/shared/joining.py", "database_name in told"): (
        "the place is told once in what people read; nothing is decided"
    ),
    ("memfs/metadata/sqlite/rebuild.py", "str(error).partition(';')"): (
        "what people read is told in short; nothing is decided"
    ),
    **{
        ("memfs/metadata/sqlite/query_plans.py", f"driver.{look}"): (
            "the key of an index, in tokens and answers; names of fields begin with $ or `user.`"
        )
        for look in (
            "startswith(_ELEMENTS)",
            "startswith(_WORDS)",
            "startswith((_ELEMENTS, _WORDS))",
            "removeprefix(_ELEMENTS)",
            "removeprefix(_ELEMENTS).removeprefix(_WORDS)",
        )
    },
}
"""Texts of others, which have nothing else, with the reason."""


def is_prose(node: ast.AST, constants: dict[str, str]) -> bool:
    """Return whether an expression is a text of two words or more."""
    match node:
        case ast.Name(id=name):
            text = constants.get(name, "")
        case ast.Constant(value=str(text)):
            pass
        case ast.Constant(value=bytes(data)):
            text = data.decode("latin-1")
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            return any(is_prose(each, constants) for each in parts)
        case _:
            return False
    return bool(PROSE.search(text)) and not STATEMENT.search(text)


def is_sentence(node: ast.AST, errors: set[str]) -> bool:
    """Return whether an expression is the text of an error, or of a reason."""
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name) if name in SENTENCES:
            return True
        case ast.Call(func=ast.Name(id="str" | "repr"), args=[ast.Name(id=name)]):
            return name in errors
        case ast.Call(func=ast.Name(id="str"), args=[inner]):
            return is_sentence(inner, errors)
        case ast.Call(func=ast.Attribute(value=inner, attr="lower" | "casefold" | "strip")):
            return is_sentence(inner, errors)
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=name), *_]):
            return name in SENTENCES
        case ast.Subscript(value=ast.Attribute(attr="args")):
            return True
        case ast.Subscript(slice=ast.Constant(value=name)):
            return name in SENTENCES
    return False


def errors_of(tree: ast.AST) -> set[str]:
    """Return the names of all errors that are caught or taken."""
    found = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None:
            kind = ast.unparse(node.annotation)
            if "Error" in kind or "Exception" in kind:
                found.add(node.arg)
    return found


def texts_of(tree: ast.AST, errors: set[str]) -> set[str]:
    """Return the names that are given the text of an error."""
    return {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and is_sentence(node.value, errors)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def module_of(path: Path) -> str:
    """Return how a module is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "memfs" else parts[1:])


def looks(tree: ast.Module, constants: dict[str, str]) -> list[ast.expr]:
    """Return the expressions that look into a sentence."""
    errors = errors_of(tree)
    told = texts_of(tree, errors)

    def is_told(node: ast.AST) -> bool:
        return is_sentence(node, errors) or (isinstance(node, ast.Name) and node.id in told)

    def is_sentence_of_error(node: ast.AST) -> bool:
        return isinstance(node, ast.Call) or (isinstance(node, ast.Name) and node.id in told)

    found: list[ast.expr] = []
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()], comparators=[right]):
                # "name" in message: a field of a dictionary of that name.
                is_field = isinstance(left, ast.Constant) and not is_sentence_of_error(right)
                if is_prose(left, constants) or (is_told(right) and not is_field):
                    found.append(node)
            case ast.Compare(left=left, ops=[ast.Eq() | ast.NotEq()], comparators=[right]):
                texts = (left, right)
                literal = any(isinstance(each, ast.Constant) and each.value for each in texts)
                if any(is_prose(each, constants) for each in texts) or (
                    literal and any(is_told(each) for each in texts)
                ):
                    found.append(node)
            case ast.Call(func=ast.Attribute(value=subject, attr=name), args=[first, *rest]):
                if name not in LOOKS:
                    continue
                if any(is_prose(each, constants) for each in (first, subject)) or any(
                    is_told(each) for each in (subject, first, *rest)
                ):
                    found.append(node)
    return found


def constants_of(tree: ast.Module, others: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return the texts of a module's constants by name, and of those that it imports."""
    found = {}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                found[name] = text
            case ast.ImportFrom(module=module, names=names):
                known = others.get(module or "", {})
                found |= {each.name: known[each.name] for each in names if each.name in known}
    return found


@pytest.mark.parametrize(
    "code",
    [
        "NOTE = 'it has not started'\nif NOTE in answer: pass",
        "if 'no room' in why: pass",
        "if why.startswith('the store'): pass",
        "_X = re.compile('ends by ([0-9]+)')",
        "try: pass\nexcept OSError as error:\n    if 'full' in str(error): pass",
        "try: pass\nexcept OSError as error:\n    told = str(error).lower()\n    told.find(word)",
        "def f(error: StoreError):\n    return error.args[0] == 'down'",
        "if move.reason == 'quota': pass",
        "if re.search(pattern, move.reason): pass",
        "if answer['note'].endswith(word): pass",
        "if answer.get('reason') == 'full': pass",
    ],
)
def test_a_look_into_a_sentence_is_seen(code: str) -> None:
    tree = ast.parse(code)
    assert looks(tree, constants_of(tree, {}))


@pytest.mark.parametrize(
    "code",
    [
        "if move.reason is None: pass",
        "if not move.reason: pass",
        "if move.code == PendingCode.FULL: pass",
        "if 'reason' in answer: pass",
        "if text.startswith('user.'): pass",
        "print(f'{path}: {error}')",
    ],
)
def test_other_code_is_left_alone(code: str) -> None:
    tree = ast.parse(code)
    assert looks(tree, constants_of(tree, {})) == []


LIBPQ = "memfs/metadata/shared/connecting.py"
"""libpq has no codes for what it meets before a server answers: its texts are read in this module
alone."""


def test_no_code_decides_by_the_text_of_a_sentence() -> None:
    trees = {
        path: ast.parse(path.read_text())
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    constants = {module_of(path): constants_of(tree, {}) for path, tree in trees.items()}
    found = {
        (str(path.relative_to(ROOT)), ast.unparse(node))
        for path, tree in trees.items()
        if path != ROOT / LIBPQ
        for node in looks(tree, constants_of(tree, constants))
    }
    assert found - EXCUSED.keys() == set()
    assert EXCUSED.keys() - found == set(), "an excuse that nothing needs"
