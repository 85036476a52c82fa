"""Puts README.md and CHANGELOG.md into the site, as its home and its page of changes."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
# Links to what is in the repository, but no page.
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:benchmarks|configs|notebooks|tests)/[^)]*\)")
PAGES = {"index.md": "README.md", "changes.md": "CHANGELOG.md"}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages, their links as seen from docs/."""
    for page, source in PAGES.items():
        text = (ROOT / source).read_text().replace("](docs/", "](")
        text = text.replace("](CHANGELOG.md)", "](changes.md)")
        text = OUTSIDE.sub(r"\1", text)
        files.append(File.generated(config, page, content=text))
    return files
