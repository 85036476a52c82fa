"""packer.render: sound is where the notes are, and a corpus appears whole or says which line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from symusic.core import ControlChangeTick, NoteTick, ScoreTick, TempoTick, TrackTick

from packer.lines import appearing
from packer.render import render_annotations, render_midi, soundfont_path, write_pcm16
from packer.synth import sounding
from shards.errors import AnnotationError, DecodeError

RATE = 44100


def score(*notes: tuple[int, int, int, int], pedal: tuple[int, ...] = ()) -> ScoreTick:
    """Notes are (start, duration, pitch, velocity) in ms; the pedal goes down and up in turn."""
    made = ScoreTick(1000)
    made.tempos.append(TempoTick(0, qpm=60.0))
    track = TrackTick("piano", 0, False)
    for note in notes:
        track.notes.append(NoteTick(*note))
    for i, time in enumerate(pedal):
        track.controls.append(ControlChangeTick(time, 64, 0 if i % 2 else 127))
    made.tracks.append(track)
    return made


def loudness(sound: np.ndarray, start_s: float, end_s: float) -> float:
    return float(np.sqrt((sound[int(start_s * RATE) : int(end_s * RATE)] ** 2).mean()))


@pytest.fixture
def annotations(tmp_path) -> Path:
    """Four lines over three MIDI files, one of them in a folder of its own."""
    root = tmp_path / "data"
    names = ["midi/a.mid", "midi/b/a.mid", "midi/a.mid", "c.mid"]
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(score((0, 300, 60 + len(name), 80)).dumps_midi())
        line = {"midi_path": name, "labels": {"timing": i / 3}, "piece": "é"}
        with (root / "annotations.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    return root / "annotations.jsonl"


def render(annotations: Path, **options) -> Path:
    out = annotations.parent.parent / options.pop("out", "out")
    return render_annotations(annotations, out, **{"workers": 0, "progress": False} | options)


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_silence_sound_and_decay_lie_where_the_note_is():
    sound = render_midi(score((1000, 500, 60, 100), (4000, 100, 60, 100)))
    assert sound.dtype == np.float32
    assert sound.shape[1] == 2
    assert loudness(sound, 0.0, 1.0) == 0
    assert loudness(sound, 1.0, 1.2) > 0.02
    assert loudness(sound, 1.3, 1.5) < loudness(sound, 1.0, 1.2)
    assert loudness(sound, 1.7, 4.0) == 0
    assert len(sound) == pytest.approx(4.22 * RATE, abs=2)


def test_a_harder_stroke_is_louder():
    soft, hard = (render_midi(score((0, 500, 60, v))) for v in (30, 120))
    assert loudness(hard, 0, 0.5) == pytest.approx(16 * loudness(soft, 0, 0.5), rel=1e-4)


def test_the_pedal_holds_a_note():
    sound = render_midi(score((0, 200, 60, 90), (3000, 100, 90, 1), pedal=(100, 2000)))
    assert loudness(sound, 1.5, 2.0) > 0.001
    assert loudness(sound, 2.2, 3.0) == 0


def test_pedal_and_repeated_strokes_decide_when_strings_stop():
    notes = score(
        (0, 200, 60, 90), (1000, 200, 60, 90), (1500, 100, 64, 90), pedal=(100, 1300, 1550)
    )
    expected = [[0, 1, 60, 90], [1, 1.3, 60, 90], [1.5, 1.6, 64, 90]]
    assert np.allclose(sounding(notes.to("second")), expected)


def test_chords_are_the_sum_of_their_notes():
    chord = render_midi(score((0, 500, 60, 90), (0, 500, 64, 90)))
    parts = [render_midi(score((0, 500, pitch, 90))) for pitch in (60, 64)]
    assert np.allclose(chord, parts[0] + parts[1], atol=1e-6)


def test_the_soundfont_is_found():
    assert soundfont_path().read_bytes()[:4] == b"RIFF"


@pytest.mark.parametrize("audio_format", ["flac", "wav"])
def test_samples_are_rounded_clipped_and_counted(tmp_path, audio_format):
    sound = np.array([[0.4 / 32768, -1.0], [0.6 / 32768, 1.0], [-2.0, 0.5]], np.float32)
    path = tmp_path / f"x.{audio_format}"
    assert write_pcm16(path, sound, audio_format=audio_format) == 2
    pcm, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE
    assert pcm.tolist() == [[0, -32768], [1, 32767], [-32768, 16384]]


def test_a_corpus_is_complete_and_keeps_lines_in_order(annotations):
    target = render(annotations)
    lines = [json.loads(row) for row in target.read_text(encoding="utf-8").splitlines()]
    names = ["a", "b/a", "a", "c"]
    assert [line["audio_path"] for line in lines] == [f"audio/{name}.flac" for name in names]
    assert [line["midi_path"] for line in lines] == [f"midi/{name}.mid" for name in names]
    assert [line["labels"]["timing"] for line in lines] == [0, 1 / 3, 2 / 3, 1]
    assert {line["piece"] for line in lines} == {"é"}
    assert len(tree(target.parent)) == 3 + 3 + 1
    for line in lines:
        pcm, _ = soundfile.read(target.parent / line["audio_path"], dtype="int16")
        midi = target.parent / line["midi_path"]
        assert pcm.tolist() == np.rint(render_midi(midi) * 32768).astype(np.int16).tolist()


def test_processes_and_repetition_give_the_same_bytes(annotations):
    one = tree(render(annotations).parent)
    assert tree(render(annotations, out="two", workers=2).parent) == one


def test_what_is_done_is_not_done_again(annotations):
    out = render(annotations).parent
    (out / "audio/a.flac").write_bytes(b"kept")
    (out / "audio/c.flac").unlink()
    again = tree(render(annotations).parent)
    assert again["audio/a.flac"] == b"kept"
    assert again["audio/c.flac"][:4] == b"fLaC"


def test_a_changed_source_is_rendered_again(annotations):
    out = render(annotations).parent
    before = tree(out)
    (annotations.parent / "c.mid").write_bytes(score((0, 900, 50, 50)).dumps_midi())
    assert tree(render(annotations).parent)["audio/c.flac"] != before["audio/c.flac"]


def test_lines_with_audio_keep_it(annotations):
    with annotations.open("a") as file:
        file.write(json.dumps({"audio_path": "x.wav", "midi_path": "c.mid"}) + "\n")
    last = json.loads(render(annotations).read_text(encoding="utf-8").splitlines()[-1])
    root = annotations.parent.absolute()
    assert last == {"audio_path": str(root / "x.wav"), "midi_path": str(root / "c.mid")}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"midi_path": ', "not JSON"),
        ("[1]", "not a JSON object but list"),
        ('{"labels": {}}', "midi_path must be a string, got None"),
        ('{"midi_path": "../x.mid"}', "lies outside"),
        ('{"midi_path": "a.mid"}', "need one name"),  # midi/a.mid is there already
    ],
)
def test_a_bad_line_is_named_before_anything_is_written(annotations, row, message):
    with annotations.open("a") as file:
        file.write(f"\n{row}\n")  # a blank line counts, and is no error
    with pytest.raises(AnnotationError, match=message) as error:
        render(annotations)
    assert f"{annotations}:6: " in str(error.value)
    assert not (annotations.parent.parent / "out").exists()


def test_all_bad_lines_are_named_and_bad_midi_stops_no_other(annotations):
    (annotations.parent / "c.mid").write_bytes(b"no MIDI")
    (annotations.parent / "midi/b/a.mid").unlink()
    with pytest.raises(AnnotationError, match="2 of 4 lines cannot be rendered") as error:
        render(annotations)
    assert re.search(r"jsonl:2: .*a\.mid.*jsonl:4: .*c\.mid", str(error.value), re.DOTALL)
    assert "--max-rejected" not in str(error.value)
    assert set(tree(annotations.parent.parent / "out")) == {"audio/a.flac", "midi/a.mid"}
    with annotations.open("a") as file:
        file.write("[]\n{}\n")
    with pytest.raises(
        AnnotationError, match=r"2 of 6 lines cannot be rendered(.|\n)*jsonl:5: (.|\n)*jsonl:6: "
    ):
        render(annotations)


def test_another_corpus_is_not_written_over(annotations):
    target = render(annotations)
    before = tree(target.parent)
    lines = annotations.read_text(encoding="utf-8").splitlines()
    annotations.write_text("\n".join(lines[:3]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"is of another corpus, with midi/c\.mid; choose another"):
        render(annotations)
    assert tree(target.parent) == before


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "content", [b"no MIDI", score().dumps_midi(), None], ids=["damaged", "no notes", "missing"]
)
def test_a_bad_midi_names_line_and_file_and_leaves_nothing_half_done(annotations, content, workers):
    bad = annotations.parent / "c.mid"
    bad.unlink() if content is None else bad.write_bytes(content)
    with pytest.raises(AnnotationError, match=r"annotations\.jsonl:4: .*c\.mid"):
        render(annotations, workers=workers)
    names = tree(annotations.parent.parent / "out").keys()
    assert "annotations.jsonl" not in names
    assert not [name for name in names if name.endswith(".partial") or "c." in name]


def test_an_interrupted_file_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), appearing(tmp_path / "x") as partial:  # noqa: PT012
        partial.write_bytes(b"half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_are_refused(annotations):
    with pytest.raises(ValueError, match="one of flac, wav, got 'ogg'"):
        render(annotations, audio_format="ogg")
    with pytest.raises(ValueError, match="another folder"):
        render(annotations, out=annotations.parent.name)


def test_an_unreadable_midi_is_a_decode_error(tmp_path):
    with pytest.raises(DecodeError, match="nowhere"):
        render_midi(tmp_path / "nowhere.mid")
