"""Ten thousand ten-second clips of PercePiano, by transposition; or of made pieces.

Each performance is transposed by -2 to 2 semitones, rendered, and cut into windows of ten seconds.
Three of its ratings stand in for those of the experiment; what is measured does not depend on them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soundfile
import symusic

from packer.corpus import write_corpus

SECONDS = 10.0
EXCERPTS_A_PIECE = 6
TRANSPOSITIONS = (0, -2, -1, 1, 2)
STAND_INS = {
    "note_accuracy": "interpretation",
    "rhythmic_precision": "timing",
    "tone_quality": "timbre_depth",
}
_LEAST = 7  # windows of a performance in all transpositions, on average

Facts = dict[str, float]


def transpose(data: Path, out: Path, clips: int) -> Facts:
    """As many performances as so many clips take, in each transposition, and their annotations."""
    lines = [json.loads(line) for line in (data / "annotations.jsonl").read_text().splitlines()]
    wanted = min(len(lines), -(-clips // _LEAST))
    written = []
    for line in (lines[place * len(lines) // wanted] for place in range(wanted)):
        source = Path(line["midi_path"])
        labels = {to: 100 * line["labels"][name] for to, name in STAND_INS.items()}
        for semitones in TRANSPOSITIONS:
            target = Path("midi") / f"{source.stem}_{semitones:+d}.mid"
            (out / target).parent.mkdir(parents=True, exist_ok=True)
            symusic.Score(data / source).shift_pitch(semitones).dump_midi(str(out / target))
            written.append({"midi_path": str(target), "piece": line["piece"], "labels": labels})
    _write_lines(out / "annotations.jsonl", written)
    return {"files": len(written)}


def windows(corpus: Path, clips: int) -> Facts:
    """``clips.jsonl``: so many of the windows of the recordings of a corpus, evenly chosen."""
    lines = (corpus / "annotations.jsonl").read_text().splitlines()
    found = [one for line in lines for one in _windows(json.loads(line), corpus)]
    if len(found) < clips:
        raise SystemExit(f"only {len(found)} windows of {SECONDS:g} s; {clips} were asked for")
    chosen = [found[place * len(found) // clips] for place in range(clips)]
    _write_lines(corpus / "clips.jsonl", chosen)
    return {"clips": len(chosen), "recordings": len(lines)}


def compose(corpus: Path, clips: int) -> Facts:
    """Made pieces, of six clips each, instead."""
    path = write_corpus(corpus, pieces=-(-clips // EXCERPTS_A_PIECE))
    lines = path.read_text().splitlines()[:clips]
    (corpus / "clips.jsonl").write_text("\n".join(lines) + "\n")
    return {"clips": len(lines)}


def _windows(line: dict[str, Any], corpus: Path) -> Iterator[dict[str, Any]]:
    """Windows that lie in a recording whole; the last one ends with it."""
    duration = soundfile.info(str(corpus / line["audio_path"])).duration
    # to the millisecond, and not beyond the end
    last = int((duration - SECONDS) * 1000) / 1000
    starts = [float(start) for start in range(0, max(0, int(last)), int(SECONDS))]
    for start in [*starts, last] if last >= 0 else []:
        yield {**line, "start_time": start, "end_time": round(start + SECONDS, 3)}


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
