"""The tables of the reference, made from the code that they describe.

`python -m tests.doc_tables` writes them into docs/reference/; `unit/test_docs.py` compares.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click

from memfs import config
from memfs.config_file import KeyKind, keys
from memfs.exit_codes import MEANINGS
from memfs.sizes import format_duration, format_size
from memfs_daemon.capabilities import as_markdown
from memfs_tools.main import list_commands

REFERENCE = Path(__file__).parents[1] / "docs/reference"


def tables() -> dict[str, str]:
    """Every generated table by the name in its markers."""
    return {
        "commands": _commands(),
        "configuration": _configuration(),
        "drivers": as_markdown().strip(),
        "exit codes": _exit_codes(),
    }


def pages() -> dict[Path, str]:
    """The pages that hold a table, as they are with the tables of the code.

    The page of a table is named after it, and has one place for it.
    """
    found = {}
    for name, table in tables().items():
        path = REFERENCE / f"{name.replace(' ', '-')}.md"
        begin, end = f"<!-- table: {name} -->", "<!-- end of table -->"
        text = path.read_text()
        places = re.findall(re.escape(begin) + ".*?" + re.escape(end), text, flags=re.DOTALL)
        assert len(places) == 1, f"{path} has {len(places)} places for the table {name!r}"
        found[path] = text.replace(places[0], f"{begin}\n{table}\n{end}")
    return found


def _commands() -> str:
    rows = ["| command | |", "|---|---|"]
    for command in list_commands():
        usage = " ".join(command.collect_usage_pieces(click.Context(command)))
        usage = usage.replace("|", r"\|")
        rows.append(f"| `memfs {command.name} {usage}` | {command.get_short_help_str(200)} |")
    return "\n".join(rows)


def _exit_codes() -> str:
    rows = ["| code | meaning |", "|---|---|"]
    return "\n".join(rows + [f"| {code.value} | {text} |" for code, text in MEANINGS.items()])


def _configuration() -> str:
    texts = _field_texts()
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key in keys():
        default = "not set" if key.default is None else _written(key.kind, key.default)
        text = texts[key.section, key.field].replace("None:", "without it:")
        # The texts name fields, first those of their own section; users know them without the unit.
        for other in sorted(keys(), key=lambda other: other.section != key.section):
            text = text.replace(f"`{other.field}`", f"`{other.dotted}`")
        rows.append(f"| `{key.dotted}` | {default} | {text} |")
    return "\n".join(rows)


def _written(kind: KeyKind, default: object) -> str:
    match kind, default:
        case KeyKind.SIZE, int():
            return f"`{format_size(default).replace('.0 ', '')}`".replace(" ", "")
        case KeyKind.DURATION, float():
            return f"`{format_duration(default).replace(' ', '')}`"
        case KeyKind.SWITCH, bool():
            return f"`{str(default).lower()}`"
        case _:
            return f"`{default}`"


def _field_texts() -> dict[tuple[str, str], str]:
    """The strings below the fields of the configuration, by section and field."""
    tree = ast.parse(Path(config.__file__).read_bytes())
    found = {}
    for section in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        name = section.name.removesuffix("Config").lower()
        for field, after in zip(section.body, [*section.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = ""
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    text = " ".join(str(after.value.value).split())
                found[name, field.target.id] = text
    return found


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text)
