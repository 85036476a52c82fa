"""The same clips, batches, tokens and labels through this project and through its peers.

    python -m benchmarks.peers --out benchmarks/results/peers.json         about 35 minutes
    python -m benchmarks.peers --quick --out build/peers/quick.json        about 10
    python -m benchmarks.peers --only this files webdataset                some of them
    python -m benchmarks.peers --again litdata                             one anew, others kept

Every peer runs in a venv of its own or of its kind, wired as its documentation recommends, with
the best of its numbers of workers. FLAC and MIDI are decoded once as its users write it (its own
decoder where it has one, else librosa; pretty_midi), once by soundfile and symusic, once by this
project's decoders, for all; decoded clips are int16 arrays in its own format. Each measurement is a
process of its own: peers take turns in every round, so that noise hits all. What was measured stays
under --work: a run that was broken off goes on. Spends no time on peers that fail; they are listed
with their error. Needs ffmpeg (torchcodec, SPDL): apt-get install ffmpeg.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.clips import make_dataset
from benchmarks.machine import describe
from benchmarks.peers.catalog import PEERS, Peer
from benchmarks.peers.picture import draw
from benchmarks.peers.report import report
from benchmarks.peers.run import Run
from benchmarks.tables import markdown


def main() -> int:
    args = _arguments()
    dataset = make_dataset(args.work, args.clips, shard_mb=args.shard_mb)
    run = Run(args.work, args.venvs, dataset, rounds=args.rounds, seconds=args.count_s)
    chosen = [peer for peer in PEERS if not args.only or _named(peer, args.only)]
    for peer in chosen:
        if args.fresh or _named(peer, args.again):
            run.forget(peer)
    run.everything(chosen)
    command = f"python -m benchmarks.peers --clips {args.clips} --rounds {args.rounds}"
    command += f" --count-s {args.count_s:g}"
    machine = describe("torch", "numpy", "soundfile", "miniaudio", "symusic")
    found = report(run, chosen, machine=machine, command=command)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(markdown(found) + "\n")
    draw(found, args.out.with_suffix(".png"))
    print(markdown(found))
    return 0


def _named(peer: Peer, names: list[str]) -> bool:
    return any(name in (peer.name, peer.module, peer.name.partition(" ")[0]) for name in names)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, default=Path("build/peers"))
    parser.add_argument("--venvs", type=Path, default=Path("build/venvs"))
    parser.add_argument("--out", type=Path, default=Path("build/peers/peers.json"))
    parser.add_argument("--clips", type=int, default=1280)
    parser.add_argument("--shard-mb", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count-s", type=float, default=3.0, help="seconds that a turn counts")
    parser.add_argument("--only", nargs="*", default=[], metavar="PEER")
    parser.add_argument("--again", nargs="*", default=[], metavar="PEER")
    parser.add_argument("--fresh", action="store_true", help="measure all anew")
    parser.add_argument("--quick", action="store_true", help="320 clips, 1 round of 1 s")
    args = parser.parse_args()
    if args.quick:
        args.clips, args.rounds, args.count_s = 320, 1, 1.0
    return args


if __name__ == "__main__":
    sys.exit(main())
