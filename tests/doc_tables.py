"""The parts of the documents that are made from the code and from the results of the benchmarks.

`python -m tests.doc_tables` writes them into their places; `unit/test_docs.py` compares.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click

from memfs import config
from memfs.config_file import KeyKind, keys
from memfs.exit_codes import MEANINGS
from memfs.filesystem.control_names import CONTROL_XATTRS
from memfs.metrics.table import METRICS as METRICS_TABLE
from memfs.query.fields import SYSTEM_FIELDS
from memfs.sizes import format_duration, format_size
from memfs_daemon.capabilities import as_markdown
from memfs_tools.lazy_group import commands_of
from memfs_tools.main import list_commands
from tests.bench import table
from tests.bench.outcome import Outcome
from tests.bench.workloads import METRICS

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs/reference"
RESULTS = ROOT / "docs/benchmark.json"
HELP_WIDTH = 90


def tables() -> dict[str, str]:
    """Every part that is made, by the name in its markers."""
    outcome = Outcome.read_json(RESULTS)
    return {
        "benchmarks": table.render(outcome).strip(),
        "commands": _commands(),
        "configuration": _configuration(),
        "drivers": as_markdown().strip(),
        "exit codes": _exit_codes(),
        "help": _help(),
        "measured": _measured(outcome),
        "metrics": _metrics(),
        "query fields": _query_fields(),
        "xattrs": _xattrs(),
    }


PAGES = {
    "benchmarks": ROOT / "docs/internals/benchmarks.md",
    "commands": REFERENCE / "commands.md",
    "configuration": REFERENCE / "configuration.md",
    "drivers": REFERENCE / "drivers.md",
    "exit codes": REFERENCE / "exit-codes.md",
    "help": REFERENCE / "commands.md",
    "measured": ROOT / "README.md",
    "metrics": REFERENCE / "metrics.md",
    "query fields": ROOT / "docs/guide/query.md",
    "xattrs": REFERENCE / "xattrs.md",
}
"""Where each of them stands, between its markers and once."""


def pages() -> dict[Path, str]:
    """The pages that have such parts, as they are with those of today."""
    found: dict[Path, str] = {}
    for name, made in tables().items():
        path = PAGES[name]
        text = found[path] if path in found else path.read_text()
        begin, end = f"<!-- table: {name} -->", "<!-- end of table -->"
        places = re.findall(re.escape(begin) + ".*?" + re.escape(end), text, flags=re.DOTALL)
        assert len(places) == 1, f"{path} has {len(places)} places for the table {name!r}"
        found[path] = text.replace(places[0], f"{begin}\n{made}\n{end}")
    return found


def _query_fields() -> str:
    rows = ["| field | meaning |", "|---|---|"]
    for name, field in SYSTEM_FIELDS.items():
        words = ", ".join(f"`{word}`" for word in field.words)
        rows.append(f"| `{name}` | {field.meaning}{f' One of {words}.' if words else ''} |")
    return "\n".join(rows)


def _metrics() -> str:
    rows = ["| metric | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
    for metric in METRICS_TABLE:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        name = f"`{metric.name}`"
        rows.append(f"| {name} | {metric.kind} | {metric.unit} | {labels} | {metric.help} |")
    return "\n".join(rows)


def _measured(outcome: Outcome) -> str:
    """The peers beside memfs, as shares of the native speed, and what made the numbers."""
    names = ("kernel", "mergerfs", "juicefs", "s3ql", "rclone", "passthroughfs")
    columns = [each for name in names for each in outcome.columns if each.name == name]
    heads = [f"{each.title} {each.version}".strip() for each in columns]
    rows = [f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for name, metric in METRICS.items():
        ratios = [outcome.samples.ratio(name, each.name, table.NATIVE) for each in columns]
        if any(ratio is not None for ratio in ratios):
            cells = [table.ABSENT if ratio is None else f"{ratio:.2g}" for ratio in ratios]
            rows.append(f"| {metric.title} | {' | '.join(cells)} |")
    return "\n".join(rows) + (
        f"\n\nMade by `{outcome.command}` on {outcome.machine.date}, "
        f"{outcome.machine.cpu_count} CPUs of a shared virtual machine, Linux "
        f"{outcome.machine.kernel}, {outcome.machine.filesystem}; medians of "
        f"{outcome.settings['round_count']:.0f} rounds in turns."
    )


def _help() -> str:
    """The help of each command, the smaller ones of a group behind it."""
    parts = []
    for command in list_commands():
        family = [(f"memfs {command.name}", command)]
        if isinstance(command, click.Group):
            family += [(f"{family[0][0]} {each.name}", each) for each in commands_of(command)]
        for name, each in family:
            text = each.get_help(command_context(each, name)).strip()
            parts.append(f"## {name}\n\n```text\n{text}\n```")
    return "\n\n".join(parts)


def command_context(command: click.Command, name: str) -> click.Context:
    """As the command line makes it: a command keeps the help option of its first context."""
    return click.Context(
        command,
        info_name=name,
        terminal_width=HELP_WIDTH,
        help_option_names=["-h", "--help"],
    )


def _commands() -> str:
    rows = ["| command | |", "|---|---|"]
    for command in list_commands():
        usage = " ".join(
            command.collect_usage_pieces(command_context(command, f"memfs {command.name}"))
        )
        usage = usage.replace("|", "/")  # A pipe would end the cell.
        rows.append(f"| `memfs {command.name} {usage}` | {command.get_short_help_str(200)} |")
    return "\n".join(rows)


def _xattrs() -> str:
    rows = ["| name | access | meaning |", "|---|---|---|"]
    for name, xattr in CONTROL_XATTRS.items():
        ways = {"read": xattr.is_readable, "write": xattr.is_writable}
        access = ", ".join(way for way, is_given in ways.items() if is_given)
        rows.append(f"| `{name.decode()}` | {access} | {xattr.meaning} |")
    return "\n".join(rows)


def _exit_codes() -> str:
    rows = ["| code | meaning |", "|---|---|"]
    return "\n".join(rows + [f"| {code.value} | {text} |" for code, text in MEANINGS.items()])


def _configuration() -> str:
    texts = _field_texts()
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key in keys():
        default = "not set" if key.default is None else _written(key.kind, key.default)
        classes = key.section.partition(".")[0], "objectstore"
        text = next(texts[each, key.field] for each in classes if (each, key.field) in texts)
        text = text.replace("None:", "without it:")
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
        name = section.name.removesuffix("Config").lower().replace("namedstore", "stores")
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
