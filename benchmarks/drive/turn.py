"""One experiment by one way, in a process of its own; prints its times as JSON.

Imports are not counted, nor what decoders load with their first clip: time runs from opening to
each epoch's last batch.
"""

import argparse
import contextlib
import importlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import benchmarks.drive.mount  # noqa: F401 registers its URLs
from benchmarks.drive.ways import WAYS, Epochs, Job
from benchmarks.peers.decoders import Decode
from benchmarks.peers.setting import SOUNDFILE, USERS
from benchmarks.peers.source import read_clips


def main() -> None:
    args = _arguments()
    warnings.simplefilter("ignore")  # of peers, about each other
    logging.basicConfig(level=logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr):  # some of them print
        way = next(way for way in WAYS if way.name == args.way)
        job = Job(args.source, args.cache, args.samples, args.part)
        for name in ("torch.utils.data", f"benchmarks.peers.wiring.{way.form}"):
            importlib.import_module(name)
        clip = next(read_clips(args.dataset))
        decode = Decode(USERS if way.form == "files" else SOUNDFILE)
        decode.files(clip.key, clip.flac, clip.midi, clip.record)
        found = _timed(way.open, job, args.epochs, args.step_s)
    print(json.dumps(found), flush=True)


def _timed(
    open_way: Callable[[Job], Epochs], job: Job, epochs: int, step_s: float
) -> dict[str, object]:
    began = time.perf_counter()
    first, ends, samples, opened_s = None, [], [], 0.0
    running: Epochs = open_way(job)
    for _ in range(epochs):
        count, batches = 0, next(running)
        opened_s = opened_s or time.perf_counter() - began
        for batch in batches:
            first = first or time.perf_counter() - began
            count += len(batch["__key__"])
            time.sleep(step_s)
        ends.append(time.perf_counter() - began)
        samples.append(count)
    running.close()
    seconds = [end - start for start, end in zip([0.0, *ends], ends, strict=False)]
    return {"opened_s": opened_s, "first_s": first, "epochs_s": seconds, "samples": samples}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=[way.name for way in WAYS])
    parser.add_argument("--source", required=True)
    parser.add_argument("--dataset", type=Path, required=True, help="a local copy, to warm up with")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--part", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--step-s", type=float, default=0.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
