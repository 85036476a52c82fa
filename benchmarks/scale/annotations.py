"""What planning a build costs, by annotation lines: ``planning.py``, once for each size."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PLANNING = Path(__file__).parent.parent / "planning.py"
LINES, QUICK_LINES = (10_000, 100_000, 1_000_000), (10_000,)


def measure(work: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Seconds, and megabytes at the peak beyond the imports, of planning some numbers of lines."""
    rows = []
    for lines in QUICK_LINES if quick else LINES:
        out = work / f"{lines}.json"
        options = ["--work", str(work), "--out", str(out), "--lines", str(lines), "--rounds", "1"]
        subprocess.run([sys.executable, str(PLANNING), *options], check=True)
        (found,) = json.loads(out.read_text())["figures"].values()
        seconds, peak = found["s"]["median"], found["MB more at the peak"]["median"]
        rows.append({"lines": lines, "s": seconds, "peak_MB": peak})
    return rows
