"""The 10k experiment at its real size: 10,000 clips packed, streamed and trained on in three modes.

    python benchmarks/experiment_10k.py --data PERCEPIANO --out build/experiment_10k.json

PERCEPIANO is a folder with ``annotations.jsonl`` (lines of ``midi_path``, ``piece`` and ratings)
and the MIDI files: see ``transposed``. Without ``--data`` the clips are of made pieces.

Phases, each timed by the clock: ``midi``, ``render``, ``windows``, ``pack``, ``verify``; ``mount``
streams an epoch from a file system as slow as Drive (``slowfs``: FUSE, 100 ms a request, 10 MB/s)
into an empty cache, and the next one from that cache, and reads some clips there file by file;
``audio``, ``midi model`` and ``fusion`` train an epoch of configs/experiment_10k.yaml (its data:
batches of 16, 4 threads) with a small model, as this is for a CPU. What is finished is kept in
``--work`` and not done again by the same code; ``--again PHASE`` does.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loose import read_s, unpack
from machine import code, command, describe
from transposed import compose, transpose, windows

from loader import make_pipeline
from shards.manifest import NAME, Manifest, load_manifest

CLIPS, BATCH = 10_000, 16
MODES = {"audio": "audio", "midi model": "midi", "fusion": "fusion"}
MODEL = {"dim": 96, "layers": 2, "heads": 4, "n_mels": 64, "n_fft": 1024, "hop_length": 480}
FILES = 16  # clips that are read as files of their own
# of PercePiano's windows: some sound alike or are silent, and the packer leaves them out
SPARE = 0.02
CONFIG = "configs/experiment_10k.yaml"

Facts = dict[str, float]


class Phases:
    """Phases that are done once: what each took is kept beside its work."""

    def __init__(self, folder: Path, again: list[str]) -> None:
        self._folder, self._again, self._code = folder, again, code()
        self.found: dict[str, Facts] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, work: Callable[[], Facts]) -> Facts:
        """Seconds that ``work`` took, and what it tells besides."""
        kept = self._folder / f"{name.replace(' ', '-')}.json"
        known = json.loads(kept.read_text()) if kept.exists() else {}
        if known.get("code") == self._code and name not in self._again:
            print(f"== {name}: done before", flush=True)
            self.found[name] = known["facts"]
            return self.found[name]
        print(f"== {name}", flush=True)
        began = time.perf_counter()
        told = work()
        facts = {"seconds": round(time.perf_counter() - began, 1), **told}
        kept.write_text(json.dumps({"code": self._code, "facts": facts}) + "\n")
        self.found[name] = facts
        print(f"== {name}: {facts}", flush=True)
        return facts


def main() -> None:
    args = _arguments()
    phases = Phases(args.work / "phases", args.again)
    corpus, shards = args.work / "corpus", args.work / "shards"
    if args.data:
        cut = with_spare(args.clips)
        phases.run("midi", lambda: transpose(args.data, args.work / "midi", cut))
        phases.run("render", lambda: render(args.work / "midi", corpus))
        phases.run("windows", lambda: windows(corpus, cut))
    else:
        phases.run("render", lambda: compose(corpus, args.clips))
    spare = SPARE if args.data else 0.0
    phases.run("pack", lambda: pack(corpus / "clips.jsonl", shards, spare=spare))
    phases.run("verify", lambda: _module("packer", "verify", shards))
    if args.mount:
        phases.run("mount", lambda: stream(shards / "train", args.work / "cache"))
    else:  # read in place: nothing has to be cached
        phases.run("disk", lambda: stream_in_place(shards / "train"))
    for name, mode in MODES.items():
        phases.run(name, lambda mode=mode: fit(mode, shards, args.work))  # type: ignore[misc]
    report = make_report(phases.found, args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["tables"], indent=1))


def with_spare(clips: int) -> int:
    """Windows of which so many clips are left if the spare is rejected."""
    return math.ceil(clips / (1 - SPARE))


def render(midi: Path, corpus: Path) -> Facts:
    """Recordings of all of them."""
    _module("packer", "render", midi / "annotations.jsonl", "--out", corpus)
    return {}


def pack(annotations: Path, shards: Path, *, spare: float) -> Facts:
    """Nine tenths to train on, by piece; of the windows a share may be rejected."""
    options = ["--split", "train=0.9,val=0.1", "--group-by", "piece"]
    options += ["--max-rejected", f"{spare:.0%}"] if spare else []
    _module("packer", "build", annotations, "--out", shards, "--overwrite", *options)
    manifests = [_manifest(shards / name) for name in ("train", "val")]
    return {
        "train_samples": manifests[0].samples,
        "val_samples": manifests[1].samples,
        "shards": sum(len(one.shards) for one in manifests),
        "gigabytes": round(sum(one.bytes for one in manifests) / 1e9, 3),
    }


def stream(dataset: Path, cache: Path) -> Facts:
    """Two epochs from a slow mount, the first into an empty cache; beside it, clips as files."""
    from slowfs import mounted  # needs FUSE

    shutil.rmtree(cache, ignore_errors=True)
    samples = _manifest(dataset).samples
    with mounted(dataset) as mount:
        began = time.perf_counter()
        with make_pipeline(mount, batch_size=BATCH, num_workers=4, cache_dir=cache) as pipe:
            first = _epoch(pipe)
            opened = time.perf_counter() - began - first["epoch"]
            second = _epoch(pipe)
    first_tar = dataset / _manifest(dataset).shards[0].url
    with mounted(unpack(first_tar, cache.with_name("files"), FILES)) as files:
        a_file = read_s(files, FILES)
    return {
        "first_batch_s": round(opened + first["batch"], 2),
        "first_epoch_s": round(opened + first["epoch"], 1),
        "cached_epoch_s": round(second["epoch"], 1),
        "files_epoch_s": round(a_file * samples, 1),
    }


def stream_in_place(dataset: Path) -> Facts:
    """An epoch from this machine's disk."""
    with make_pipeline(dataset, batch_size=BATCH, num_workers=4) as pipe:
        return {"cached_epoch_s": round(_epoch(pipe)["epoch"], 1)}


def fit(mode: str, shards: Path, work: Path) -> Facts:
    """One epoch, and the validation after it; what it logged of its speed."""
    run = work / "runs" / mode
    shutil.rmtree(run, ignore_errors=True)
    options = {
        "mode": mode,
        "out": run,
        "data.shards": shards,
        "data.cache_dir": work / "cache",
        **{f"model.{name}": value for name, value in MODEL.items()},
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "trainer.num_sanity_val_steps": 0,
        "trainer.enable_progress_bar": "false",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    _module("trainer", "fit", "--config", CONFIG, *arguments)
    logged = _logged(run / "logs", ("data/epoch_waiting", "data/epoch_samples_per_s"))
    return {
        "waiting": round(logged["data/epoch_waiting"], 4),
        "samples_per_s": round(logged["data/epoch_samples_per_s"], 1),
    }


def make_report(found: dict[str, Facts], args: argparse.Namespace) -> dict[str, Any]:
    """Every phase; an epoch of data from a slow mount, beside file by file from the same."""
    rows = [[name, f"{facts['seconds']:.0f} s", _told(facts)] for name, facts in found.items()]
    total = sum(facts["seconds"] for facts in found.values())
    clips = int(found["pack"]["train_samples"] + found["pack"]["val_samples"])
    model = ", ".join(f"{name} {value}" for name, value in MODEL.items())
    return {
        "machine": describe("torch", "lightning", "symusic", "miniaudio"),
        "command": _command(args),
        "measure": "One run",
        "phases": found,
        "tables": [
            {
                "title": f"{clips:,} ten-second clips, batches of {BATCH}, phase by phase",
                "columns": ["phase", "time", ""],
                "rows": rows,
            },
            *([_epochs(found["mount"])] if "mount" in found else []),
        ],
        "notes": [f"{total / 60:.1f} minutes in all. The model is small, for a CPU ({model})."],
    }


def _command(args: argparse.Namespace) -> str:
    told = argparse.Namespace(data=args.data, clips=args.clips, no_mount=not args.mount)
    return command("benchmarks/experiment_10k.py", told, data="PERCEPIANO")


def _epochs(facts: Facts) -> dict[str, Any]:
    files = facts["files_epoch_s"]
    ways = {
        f"file by file: {FILES} clips, scaled up": files,
        "streamed, into an empty cache": facts["first_epoch_s"],
        "streamed, from the cache": facts["cached_epoch_s"],
    }
    return {
        "title": "An epoch of data from a mount as slow as Drive",
        "columns": ["way", "seconds", "file by file / this"],
        "rows": [[way, f"{s:.0f}", f"{files / s:.3g}"] for way, s in ways.items()],
    }


def _told(facts: Facts) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in facts.items() if name != "seconds")


def _epoch(pipe: Any) -> Facts:
    """Seconds to the first batch and to the last."""
    began = time.perf_counter()
    seconds = [time.perf_counter() - began for _ in pipe]
    return {"batch": seconds[0], "epoch": seconds[-1]}


def _logged(folder: Path, names: tuple[str, ...]) -> Facts:
    """The last value of scalars in TensorBoard's files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {name: events.Scalars(name)[-1].value for name in names}


def _manifest(dataset: Path) -> Manifest:
    return load_manifest((dataset / NAME).read_bytes(), name=str(dataset))


def _module(name: str, *arguments: object) -> Facts:
    subprocess.run([sys.executable, "-m", name, *map(str, arguments)], check=True)
    return {}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, help="the PercePiano folder; without it, made pieces")
    add("--work", type=Path, default=Path("build/experiment_10k"))
    add("--out", type=Path, default=Path("build/experiment_10k.json"))
    add("--clips", type=int, default=CLIPS)
    add("--no-mount", dest="mount", action="store_false", help="stream from the disk: no FUSE")
    add("--again", nargs="+", default=[], metavar="PHASE", help="phases to do once more")
    args = parser.parse_args()
    if args.mount and not os.path.exists("/dev/fuse"):
        parser.error("there is no /dev/fuse for the slow mount: give --no-mount")
    return args


if __name__ == "__main__":
    main()
