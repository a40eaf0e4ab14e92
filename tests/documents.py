"""README.md, ARCHITECTURE.md and docs/ as the tests of the documents read them.

Invariant: the Markdown that is understood here (headings by `#`, fenced blocks, inline links, pipe
tables) is all that the documents use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATHS = (ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md")))

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CODE = re.compile(r"`[^`\n]+(?:\n[^`\n]+)?`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block."""

    language: str
    """Empty where the fence names no language."""
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """One file."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        """Its path in the repository."""
        return str(self.path.relative_to(ROOT))

    @property
    def blocks(self) -> list[Block]:
        """Its fenced blocks."""
        return [Block(found[2], found[3]) for found in _FENCE.finditer(self.text)]

    @property
    def body(self) -> str:
        """Its text without fenced blocks and comments; the line numbers stay."""
        return _COMMENT.sub(_blank, _FENCE.sub(_blank, self.text))

    @property
    def code_spans(self) -> list[str]:
        """What stands between single backticks."""
        return [" ".join(span[1:-1].split()) for span in _CODE.findall(self.body)]

    @property
    def links(self) -> list[str]:
        """The targets of its links and pictures."""
        return re.findall(r"\]\(([^)\s]+)\)", _CODE.sub("x", self.body))

    @property
    def headings(self) -> list[str]:
        """Its headings without their marks."""
        return re.findall(r"^#{1,6} (.*)$", self.body, re.MULTILINE)

    @property
    def anchors(self) -> set[str]:
        """What `#` can name in it."""
        return {anchor(heading) for heading in self.headings}

    @property
    def sentences(self) -> list[str]:
        """Its prose, sentence by sentence: paragraphs, list items and cells, without headings.

        A word in backticks is `x` here. A colon and a semicolon end no sentence.
        """
        text = _CODE.sub("x", self.body)
        text = re.sub(r"\]\([^)\s]+\)", "]", text)
        text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
        text = re.sub(r"^\s*(?:[-*] |\d+\. |> )", "\n\n", text, flags=re.MULTILINE)
        text = re.sub(r"^\|.*\|$", _cells, text, flags=re.MULTILINE)
        found = []
        for paragraph in re.split(r"\n\s*\n", text):
            plain = " ".join(re.sub(r"[*_\[\]!]", "", paragraph).split())
            found += [each for each in re.split(r"(?<=[.?!])\s+", plain) if each]
        return found


def load() -> list[Document]:
    """Return all documents."""
    return [Document(path, path.read_text()) for path in PATHS]


def anchor(heading: str) -> str:
    """Return the name that a heading has in a link.

    Source: the `toc` extension of Python-Markdown, which makes the site. Forges do the same for
    letters, digits, spaces, single hyphens and the marks that are left out.
    """
    plain = re.sub(r"[^\w\s-]", "", heading).strip().lower()
    return re.sub(r"[-\s]+", "-", plain)


def _blank(found: re.Match[str]) -> str:
    return "\n" * found[0].count("\n")


def _cells(found: re.Match[str]) -> str:
    return "\n\n".join(["", *found[0].strip("|").split("|"), ""])
