"""The code in the documents, as a reader would paste it."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def blocks(document: str, language: str) -> list[str]:
    """Code blocks of a file of the repository."""
    return _in(language, (ROOT / document).read_text())


def sections(document: str) -> dict[str, str]:
    """Python code by heading; headings without any are left out."""
    parts = re.split(r"^## ", (ROOT / document).read_text(), flags=re.MULTILINE)
    code = {part.partition("\n")[0]: "\n".join(_in("python", part)) for part in parts}
    return {heading: lines for heading, lines in code.items() if lines}


def _in(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
