"""The reference says what the code does, and no document names what is not there."""

from __future__ import annotations

import ast
import functools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import click
import pytest

from memfs.config_file import KeyKind, keys, load_config
from memfs.filesystem.control_names import CONTROL_XATTRS
from memfs.sizes import parse_duration, parse_size
from memfs_tools.main import cli
from tests import doc_tables, documents
from tests.documents import ROOT, Document

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENTS = documents.load()
CONFIGURATION = (doc_tables.REFERENCE / "configuration.md").read_text()

STATE_FILES = {"metadata.db", "metadata.sums"}
"""Files of a state directory that are called as a key could be."""

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda each: each.name)


def test_the_tables_are_those_of_the_code() -> None:
    """If not: `python -m tests.doc_tables`, and look at the difference."""
    for page, text in doc_tables.pages().items():
        assert text == page.read_text(), page


def test_the_defaults_are_written_as_they_are_read() -> None:
    """Each default in the table, read as a configuration is, is the one of the code."""
    row = r"^\| `([a-z_]+\.[A-Za-z_.]+)` \| (?:`([^`]*)`|not set) \|"
    shown = dict(re.findall(row, CONFIGURATION, re.MULTILINE))
    for key in keys():
        written = shown[key.dotted]
        if key.kind == KeyKind.SIZE and key.default is not None:
            assert parse_size(written) == key.default, key.dotted
        elif key.kind == KeyKind.DURATION and key.default is not None:
            assert parse_duration(written) == key.default, key.dotted
        else:
            assert written == ("" if key.default is None else str(key.default).lower()), key.dotted


def test_some_defaults_are_these() -> None:
    """By hand, so that table and generator cannot be wrong together."""
    for row in (
        "| `glacier.batch_idle` | `500ms` |",
        "| `glacier.timeout` | `30s` |",
        "| `glacier.url` | not set |",
        "| `cold.wait_for_room` | `0s` |",
        "| `policy.interval` | `1s` |",
        "| `policy.cold_to_glacier` | `30d` |",
        "| `cold.codec` | `zstd:3` |",
        "| `warm.high_watermark` | `0.95` |",
    ):
        assert f"\n{row}" in CONFIGURATION, row


def test_no_key_of_the_configuration_goes_without_a_word() -> None:
    silent = [
        row for row in doc_tables.tables()["configuration"].splitlines() if row[-3:] == "|  |"
    ]
    assert silent == []


def test_a_key_is_explained_by_keys_of_its_own_section() -> None:
    """Two sections have a `reserve`, and two a high watermark."""
    [row] = [line for line in CONFIGURATION.splitlines() if line.startswith("| `cold.size` |")]
    assert row.endswith("less `cold.reserve`. |")


def test_the_control_xattrs_are_those_of_the_file_system() -> None:
    """By hand, so that table and generator cannot be wrong together."""
    text = (doc_tables.REFERENCE / "xattrs.md").read_text()
    shown = re.findall(
        r"^\| `user\.memfs\.([a-z]+)` \| (read|write|read, write) \|", text, re.MULTILINE
    )
    assert dict(shown) == {
        **dict.fromkeys(
            (
                *("tier", "codec", "priority", "pool", "policy", "snapshot", "store", "publish"),
                *("dtype", "shape", "ask", "frozen"),
            ),
            "read, write",
        ),
        **dict.fromkeys(("xattrs", "cache"), "write"),
        **dict.fromkeys(("pin", "state", "residency", "why", "digest", "source", "lease"), "read"),
    }


@each_document
def test_every_link_of_a_document_leads_somewhere(document: Document) -> None:
    """Web addresses apart, which no test can ask for."""
    broken = []
    for link in document.links:
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (document.path.parent / path).resolve() if path else document.path
        there = target.is_relative_to(ROOT) and target.exists()
        if there and fragment:
            there = fragment in Document(target, target.read_text()).anchors
        if not there:
            broken.append(link)
    assert broken == []


@each_document
def test_a_list_begins_behind_an_empty_line(document: Document) -> None:
    """The site would show its items as one paragraph (Python-Markdown)."""
    joined = re.findall(r"^(?![-*#|>\s]|\d+\. ).+\n(?:[-*]|\d+\.) .*$", document.body, re.MULTILINE)
    assert joined == []


@each_document
def test_no_code_has_an_escaped_pipe(document: Document) -> None:
    """Forges show `|` for it, and the site shows the backslash as well."""
    assert [span for span in document.code_spans if r"\|" in span] == []


@each_document
def test_headings_are_plain_and_differ(document: Document) -> None:
    """Forges and the site then give them the same names in links."""
    odd = [each for each in document.headings if re.search(r"[^\w\s,.?'`()+-]| -|--", each)]
    assert odd == []
    assert len(document.anchors) == len(document.headings)


@each_document
def test_every_file_that_a_document_names_is_there(document: Document) -> None:
    """Paths in backticks that begin with a folder of the repository."""
    folders = "|".join(["tools", "systemd", "tests", "locks", "docs", "memfs", "daemon"])
    missing = []
    for span in document.code_spans:
        for word in span.split():
            path = word.partition("::")[0]
            plain = re.fullmatch(rf"(?:{folders})/[\w./@-]*", path)
            if plain and not (ROOT / path).exists():
                missing.append(path)
    assert missing == []


@functools.cache
def words_of_the_code() -> frozenset[str]:
    folders = ("memfs", "daemon", "tools", "tests")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 700
    return frozenset(word for file in files for word in re.findall(r"\w+", file.read_text()))


@pytest.mark.parametrize(
    "document",
    [each for each in DOCUMENTS if each.name.startswith(("ARCHITECTURE", "docs/internals/"))],
    ids=lambda each: each.name,
)
def test_every_name_of_the_code_that_a_document_tells_is_there(document: Document) -> None:
    """`Class.member`, and `ClassOfSeveralWords`, in backticks."""
    known = words_of_the_code()
    found = [
        re.fullmatch(r"([A-Z]\w*)\.([a-z_]\w*)(?:\(.*\))?|([A-Z][a-z]+[A-Z]\w*)", span)
        for span in document.code_spans
    ]
    named = {(each[0], name) for each in found if each for name in each.groups() if name}
    assert [span for span, name in sorted(named) if name not in known] == []


@each_document
def test_every_module_that_a_document_runs_is_there(document: Document) -> None:
    names = re.findall(r"python -m (tests[\w.]*)", document.text)
    missing = [name for name in names if not (ROOT / f"{name.replace('.', '/')}.py").exists()]
    assert missing == []


@each_document
def test_every_command_of_a_document_is_one_of_memfs(document: Document) -> None:
    """Each `memfs ...` in a fenced block or in backticks, with its options and arguments."""
    wrong = [
        f"{line}: {fault}"
        for line in _lines(document)
        if (fault := _fault(shlex.split(line, comments=True))) is not None
    ]
    for span in document.code_spans:
        if span.startswith("memfs "):
            words = [each for each in shlex.split(span) if each[0] not in "[{"]
            if (fault := _fault(words)) not in (None, "too few arguments"):
                wrong.append(f"{span}: {fault}")
    assert wrong == []


@pytest.mark.parametrize("module", ["sentences", "health"])
def test_every_command_that_a_report_names_is_one_of_memfs(module: str) -> None:
    spans = re.findall("`(memfs [^`]*)`", (ROOT / f"memfs/report/{module}.py").read_text())
    assert spans
    assert {_fault(shlex.split(span)) for span in spans} <= {None, "too few arguments"}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("memfs mount /mnt/data", None),
        ("memfs pin --wait warm /mnt/data/FILE", None),
        ("memfs trace start DIR MOUNTPOINT", None),
        ("memfs barrier --level local|remote PATH...", None),
        ("memfs repair /mnt/data", "no command repair"),
        ("memfs trace begin DIR /mnt/data", "no command begin"),
        ("memfs fsck --mend STATE", "no option --mend"),
        ("memfs pin lukewarm FILE", "no choice lukewarm"),
        ("memfs pin warm", "too few arguments"),
        ("memfs why A B", "too many arguments"),
        ("memfs mount -o warm.sise=8GiB /mnt/data", "no key warm.sise"),
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str, fault: str | None) -> None:
    assert _fault(shlex.split(line)) == fault


def test_every_message_that_troubleshooting_quotes_is_one_of_memfs() -> None:
    """Between its `...` each quotation is in a string of the source, as it is written there."""
    strings = []
    for folder in ("memfs", "daemon", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.walk(ast.parse(path.read_bytes()))
            constants = [node.value for node in tree if isinstance(node, ast.Constant)]
            strings += [each for each in constants if isinstance(each, str)]
    source = "\n".join(strings)
    text = (ROOT / "docs/guide/troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)`(?: \(exit status \d\))? \|", text, re.MULTILINE)
    assert len(quoted) > 10
    parts = [part.strip(" :;()`") for each in quoted for part in each.split("...")]
    assert [part for part in parts if part not in source] == []


@pytest.mark.slow
def test_the_site_builds_strictly_and_asks_for_nothing(tmp_path: Path) -> None:
    """Pages are read from a disk, without a network: no script, style or picture is elsewhere."""
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    fetched = r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=[\"']?(https?:[^\"' >]+)"
    pages = [page.read_text() for page in tmp_path.rglob("*.html")]
    assert len(pages) > len(DOCUMENTS) - 3
    assert [url for page in pages for url in re.findall(fetched, page)] == []


@each_document
def test_every_configuration_in_a_document_can_be_mounted(
    document: Document, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("documents") / "memfs.toml"
    for block in document.blocks:
        if block.language == "toml":
            tomllib.loads(block.text)
            path.write_text(block.text)
            load_config(path)


@each_document
def test_every_key_and_xattr_that_a_document_names_is_known(document: Document) -> None:
    sections = "|".join({key.section for key in keys()})
    known = {key.dotted for key in keys()} | STATE_FILES
    xattrs = {name.decode() for name in CONTROL_XATTRS}
    unknown: list[str] = []
    for span in [*document.code_spans, *(block.text for block in document.blocks)]:
        unknown += set(re.findall(r"user\.memfs\.[a-z_]+", span)) - xattrs
        if key := re.match(rf"(?:{sections})\.[a-z_]+(?=$| =)", span):
            unknown += {key[0]} - known
    assert unknown == []


@each_document
def test_python_in_a_document_compiles_and_calls_what_is_there(document: Document) -> None:
    module = ast.parse((ROOT / "memfs/torch/__init__.py").read_text())
    [exported] = [
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    for block in document.blocks:
        if block.language == "python":
            compile(block.text, document.name, "exec", dont_inherit=True)
    text = "\n".join([*document.code_spans, *(block.text for block in document.blocks)])
    assert set(re.findall(r"\bmt\.([A-Za-z_]+)", text)) <= set(exported)


def _lines(document: Document) -> list[str]:
    """Return the lines of shells that run `memfs`, each up to its next command."""
    found = []
    for block in document.blocks:
        if block.language in ("", "console", "bash", "sh"):
            joined = block.text.replace("\\\n", " ")
            line = r"^(?:[$#] )?(?:.*[;|&] *|sudo )?(?:\S*/)?(memfs [a-z].*)$"
            found += re.findall(line, joined, re.MULTILINE)
    return [re.split(r" (?:[;|&]|&&|>) ?|; ", line)[0] for line in found]


def _fault(words: list[str]) -> str | None:
    """Return why the command line would refuse some words; None if it would not.

    Words in capitals and `...` stand for anything.
    """
    command: click.Command = cli
    rest = words[1:]
    while isinstance(command, click.Group) and rest:
        found = command.get_command(click.Context(command), rest[0])
        if found is None:
            return None if _stands_for_any(rest[0]) else f"no command {rest[0]}"
        command, rest = found, rest[1:]
    context = doc_tables.command_context(command, " ".join(words))
    try:
        values, left, _ = command.make_parser(context).parse_args(list(rest))
    except click.NoSuchOption as error:
        return f"no option {error.option_name}"
    except click.BadOptionUsage as error:
        return f"{error.option_name} lacks its value"
    for parameter in command.params:
        value = values.get(str(parameter.name))
        if (
            isinstance(parameter.type, click.Choice)
            and isinstance(value, str)
            and not _stands_for_any(value)
            and not set(value.split("|")) <= set(parameter.type.choices)
        ):
            return f"no choice {value}"
        is_argument = isinstance(parameter, click.Argument)
        if is_argument and parameter.required and not _is_given(value):
            return "too few arguments"
    if left:
        return "too many arguments"
    known = {key.dotted for key in keys()}
    for option in _options(values):
        dotted = option.partition("=")[0]
        if "." in dotted and dotted not in known:
            return f"no key {dotted}"
    return None


def _stands_for_any(word: str) -> bool:
    return word.isupper() or "..." in word or word in ("-h", "--help")


def _is_given(value: object) -> bool:
    return bool(value) and repr(value) != "Sentinel.UNSET"


def _options(values: dict[str, object]) -> list[str]:
    """Return what `-o` lists."""
    lists = values.get("options")
    return [each for text in lists for each in text.split(",")] if isinstance(lists, list) else []
