"""python -m trainer predict: rates shards or whole recordings with a trained model."""

import argparse
import json
import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from loader import make_pipeline
from loader.disk import write_whole
from shards.commands import Help, json_object, number
from trainer.data import FIELDS
from trainer.disk import try_writing
from trainer.failures import run
from trainer.models import Batch, Mode
from trainer.module import Rater
from trainer.recordings import Recording, Window, batches, cut, halves, pair

_EXAMPLES = """examples:
  python -m trainer predict --checkpoint runs/x/checkpoints/best.ckpt --shards packed/test \\
      --out predictions.jsonl
  python -m trainer predict --checkpoint best.ckpt concert.wav concert.mid --out predictions.jsonl
  python -m trainer predict --checkpoint best.ckpt recordings/*.flac --hop 5 --out predictions.jsonl

Audio and MIDI of one name are one recording, as in audio/x.wav midi/x.mid. Recordings are rated
window by window; a line has the means, and the deviation over the windows as spread. A sample of
a shard is rated by one window, in its middle, as in validation.
"""


@dataclass(frozen=True, slots=True)
class Judge:
    """A trained model, on its device, and what it takes.

    Attributes:
        clip_seconds: of a window, as in training; 10 where whole recordings were taken.
        max_notes: of a window, as in training.
    """

    rater: Rater
    device: torch.device
    clip_seconds: float
    max_notes: int

    @property
    def mode(self) -> Mode:
        mode: Mode = self.rater.hparams["mode"]
        return mode

    @property
    def sample_rate(self) -> int:
        return int(self.rater.hparams["sample_rate"])

    @property
    def dimensions(self) -> list[str]:
        return list(self.rater.hparams["statistics"])

    def rate(self, batch: Batch) -> Tensor:
        """(B, D) ratings in the labels' units, on the CPU."""
        moved = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }
        with torch.inference_mode():
            rated: Tensor = self.rater(moved).float().cpu()
        return rated


def main(name: str, argv: Sequence[str]) -> int:
    """Run the command; 1 if a file is at fault."""
    args = _parser(name).parse_args(argv)
    return run(lambda: _predict(args))


def load_judge(checkpoint: Path, device: torch.device) -> Judge:
    """The model of a checkpoint; plain tensors and values are read, and no code is run.

    Raises:
        ValueError: there is no such file, or it is no checkpoint of this trainer.
    """
    if not checkpoint.is_file():
        raise ValueError(
            f"--checkpoint {checkpoint}: no such file; fit writes checkpoints/best.ckpt"
        )
    try:
        held = torch.load(checkpoint, map_location="cpu", weights_only=True)
        options, weights = held["hyper_parameters"], held["state_dict"]
        rater = Rater(**options)
        rater.on_load_checkpoint(held)
        rater.load_state_dict(weights)
    except pickle.UnpicklingError as error:  # which would say how to load it nevertheless
        raise ValueError(f"{checkpoint}: no checkpoint of this trainer") from error
    except (RuntimeError, KeyError, TypeError, EOFError) as error:
        line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{checkpoint}: no checkpoint of this trainer: {line}") from error
    fed = held.get("datamodule_hyper_parameters", {})
    clip_seconds, max_notes = fed.get("clip_seconds") or 10.0, fed.get("max_notes") or 512
    return Judge(rater.to(device).eval(), device, float(clip_seconds), int(max_notes))


def rate_shards(judge: Judge, url: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line for each sample of a dataset, in stored order."""
    pipe = make_pipeline(
        url,
        batch_size=args.batch_size,
        drop_last=False,
        shuffle=0,
        num_workers="auto",
        cache_dir=args.cache_dir,
        storage_options=args.storage_options,
        fields=[field for field in FIELDS[judge.mode] if field != "labels"],
        sample_rate=judge.sample_rate,
        clip_seconds=args.window or judge.clip_seconds,
        crop="center",
        max_notes=judge.max_notes,
        rank=0,
        world_size=1,
        device=judge.device if judge.device.type == "cuda" else None,
    )
    with pipe:
        for batch in tqdm(pipe, total=len(pipe), desc="rating", unit="batch", disable=None):
            ratings = judge.rate(batch)
            for key, rated in zip(batch["__key__"], ratings, strict=True):
                if key:  # padding has none
                    yield {"key": key} | summary(judge.dimensions, rated[None])


def rate_recordings(
    judge: Judge, recordings: Sequence[Recording], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """A line for each recording, in the order given."""
    seconds = args.window or judge.clip_seconds
    window = Window(seconds, args.hop or seconds, judge.sample_rate, judge.max_notes)
    for recording in tqdm(recordings, desc="rating", unit="recording", disable=None):
        windows = cut(recording, window, mode=judge.mode)
        rated = torch.cat([judge.rate(batch) for batch in batches(windows, args.batch_size)])
        paths = {"audio_path": recording.audio, "midi_path": recording.midi}
        named = {name: str(path) for name, path in paths.items() if path is not None}
        yield named | summary(judge.dimensions, rated)


def summary(dimensions: Sequence[str], rated: Tensor) -> dict[str, Any]:
    """Means and spread of (windows, D) ratings; of one window there is no spread."""
    values = rated.double()
    spread: Mapping[str, float] | None = None
    if len(values) > 1:
        deviations = values.std(dim=0, correction=0).tolist()
        spread = {n: round(v, 4) for n, v in zip(dimensions, deviations, strict=True)}
    means = values.mean(dim=0).tolist()
    return {
        "ratings": {n: round(v, 4) for n, v in zip(dimensions, means, strict=True)},
        "spread": spread,
        "windows": len(values),
    }


def _predict(args: argparse.Namespace) -> None:
    if bool(args.files) == bool(args.shards):
        raise ValueError("give either FILES or --shards URL, and not both")
    for name, value in (("--window", args.window), ("--hop", args.hop)):
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}")
    with _kept(args.out):  # before hours of work
        try_writing(args.out.parent)
    judge = load_judge(args.checkpoint, _device(args.device))
    if args.shards:
        lines = rate_shards(judge, args.shards, args)
    else:
        recordings = pair(args.files, mode=judge.mode)
        if note := halves(recordings, mode=judge.mode):
            print(f"note: {note}", file=sys.stderr)
        lines = rate_recordings(judge, recordings, args)
    text = [json.dumps(line, ensure_ascii=False) for line in lines]
    with _kept(args.out):
        write_whole(args.out, "".join(f"{line}\n" for line in text).encode())
    print(f"{len(text)} rated by a model of {judge.mode}: {args.out}")


@contextmanager
def _kept(out: Path) -> Iterator[None]:
    """While something is written where the predictions are to lie.

    Raises:
        ValueError: it cannot be.
    """
    if out.is_dir():
        raise ValueError(f"--out {out}: is a folder; name a file in it, as in {out}/ratings.jsonl")
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"--out {out}: cannot be written: {error.strerror}; name a file in a folder of yours"
        ) from error


def _device(name: str | None) -> torch.device:
    """The device of a name, once something could be put there; of no name, a GPU if there is one.

    Raises:
        ValueError: there is no such device, or this PyTorch cannot use it.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where CUDA was left out
        raise ValueError(f"--device {name}: {str(error).partition(chr(10))[0]}") from error
    return device


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m trainer {name}",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=Help,
    )
    add = parser.add_argument
    add("files", nargs="*", type=Path, metavar="FILES", help="recordings: audio, MIDI or both")
    add("--checkpoint", type=Path, required=True, help="that fit wrote")
    add("--shards", metavar="URL", help="a dataset, instead of files")
    add("--out", type=Path, required=True, metavar="JSONL", help="appears once all are rated")
    add("--window", type=number, metavar="S", help="its length; default: as in training")
    add("--hop", type=number, metavar="S", help="from window to window; default: a window")
    add("--batch-size", type=int, default=16, metavar="N", help="windows rated at a time")
    add("--device", metavar="NAME", help="default: a GPU where there is one")
    add("--cache-dir", type=Path, metavar="DIR", help="of shards that are fetched")
    add("--storage-options", type=json_object, metavar="JSON", help="passed to fsspec")
    return parser
