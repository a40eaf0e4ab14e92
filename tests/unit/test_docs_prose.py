"""Documents and code are in plain English: words and turns that make a reader stop are refused."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from typing import TYPE_CHECKING

import pytest

from tests import doc_tables, documents
from tests.documents import Document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORDS = ("whoever", "none", "no more", "by that", "as far as", "dear")
"""Another word is plainer: "not set", "nothing", "no longer", "so", "as long as", "costly"."""

_WORD = re.compile(rf"\b(?:{'|'.join(WORDS)})\b", re.IGNORECASE)
_BEGINS_WITH_OF = re.compile(r"^\W*Of\b")
_CLAUSE_WITHOUT_NOUN = re.compile(r"^\W*(?:What|Who|Whose|Whom)\b.*[^?]$")


def faults(document: Document) -> list[str]:
    """Return the sentences that are not plain."""
    return [
        sentence
        for sentence in document.sentences
        if _WORD.search(sentence)
        or _BEGINS_WITH_OF.search(sentence)
        or (sentence.endswith((".", ":")) and _CLAUSE_WITHOUT_NOUN.search(sentence))
    ]


@pytest.mark.parametrize("document", documents.load(), ids=lambda each: each.name)
def test_every_sentence_is_plain(document: Document) -> None:
    assert faults(document) == []


def test_every_help_is_plain() -> None:
    text = doc_tables.tables()["help"].replace("```", "")
    assert faults(_written(re.sub(r"^ +", "", text, flags=re.MULTILINE))) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "Whoever mounts is root.",
        "There is none.",
        "It holds no more than that.",
        "- By that the tier is full.",
        "It is safe as far as the disk is.",
        "A dear request.",
        "Of these files the last one stays.",
        "| cell | Of packed files. |",
        "What fsck cannot explain is damage.",
        "It ends. Who reads meanwhile sees both.",
    ],
)
def test_a_turn_that_makes_a_reader_stop_is_found(sentence: str) -> None:
    assert len(faults(_written(sentence))) == 1


@pytest.mark.parametrize(
    "sentence",
    [
        "## What holds always",
        "What does it cost? A round trip.",
        "The codec is `none`.",
        "A digest of the content: of the bytes, not of the names.",
        "| what is left | repair |",
        "Nonetheless it starts; it offers often.",
        "```\nnone of these, whoever asks\n```",
    ],
)
def test_plain_sentences_pass(sentence: str) -> None:
    assert faults(_written(sentence)) == []


def _written(text: str) -> Document:
    return Document(documents.ROOT / "README.md", f"{text}\n")


# --- docstrings and comments of the code ---------------------------------------------------------
_CODE_WORD = re.compile(r"\b(?:[Ww]hoever|none|[Nn]o more|[Bb]y that|[Aa]s far as|dear)\b")
"""`None` is a value of Python."""

_OF_IN_CODE = re.compile(r"^\W*Of\b|[.:] Of [a-z]")
_SUSPECT = re.compile(rf"{_CODE_WORD.pattern}|\bOf\b")
"""Anywhere in a module, names and texts included: to take all modules apart takes half a minute."""


def told(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of the docstrings and comments of a module, with their numbers."""
    source = file.read_text()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", ())
        for statement in body if isinstance(body, list) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    for number, line in enumerate(text.split("\n")):
                        yield statement.lineno + number, line
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


def test_the_words_of_the_code_are_plain() -> None:
    wrong, count = [], 0
    for folder in ("memfs", "daemon", "tools", "tests"):
        for file in sorted((documents.ROOT / folder).rglob("*.py")):
            count += 1
            if not _SUSPECT.search(file.read_text()):
                continue
            for number, line in told(file):
                plain = re.sub(r"`[^`]*`", "X", line)
                if _CODE_WORD.search(plain) or _OF_IN_CODE.search(plain.strip()):
                    wrong.append(f"{file.relative_to(documents.ROOT)}:{number}: {line.strip()}")
    assert count > 700
    assert wrong == []
