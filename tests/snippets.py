"""The code in the documents, as a reader would paste it."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]

_FENCE = re.compile(r"^( *)```(.*)$")
_NOT_RUN = re.compile(r"^ *<!-- not run: (.*) -->$")


@dataclass(frozen=True, slots=True)
class Block:
    """One code block.

    Attributes:
        heading: of the section it is in.
        line: of its first fence.
        not_run: why it cannot be run, as the comment above it says; None if it can.
    """

    document: str
    heading: str
    line: int
    language: str
    code: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(document: str, language: str | None = None) -> list[Block]:
    """Code blocks of a file of the repository, in order."""
    found = _parse(document, (ROOT / document).read_text().splitlines())
    return [block for block in found if language in (None, block.language)]


def sections(document: str) -> dict[str, str]:
    """Python code by heading; headings without any are left out."""
    found: dict[str, str] = {}
    for block in blocks(document, "python"):
        found[block.heading] = "\n".join([*filter(None, [found.get(block.heading)]), block.code])
    return found


def commands(code: str) -> list[list[str]]:
    """The commands of a block for the shell, split into words."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def stray_marks(document: str) -> int:
    """How many comments ``not run`` stand above no block."""
    text = (ROOT / document).read_text()
    marked = sum(block.not_run is not None for block in blocks(document))
    return text.count("<!-- not run") - marked


def _parse(document: str, lines: list[str]) -> Iterator[Block]:
    heading, above = "", ""
    numbered = iter(enumerate(lines, start=1))
    for number, line in numbered:
        if opening := _FENCE.match(line):
            indent = len(opening[1])
            inside = []
            for _, text in numbered:
                if text.strip() == "```":
                    break
                inside.append(text[indent:])
            else:
                raise ValueError(f"{document}:{number}: this block has no end")
            reason = _NOT_RUN.match(above)
            code = "\n".join([*inside, ""])
            language = opening[2].strip()
            yield Block(document, heading, number, language, code, reason and reason[1])
        elif line.startswith("## "):
            heading = line.removeprefix("## ")
        above = line
