"""The whole way in a few minutes: make a corpus, pack it, stream it, train on it, report.

python benchmarks/demo.py --work build/demo
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from loader import make_pipeline
from shards.manifest import NAME, Manifest, load_manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/demo"))
    parser.add_argument("--config", default="configs/demo.yaml")
    args = parser.parse_args()
    began = time.perf_counter()
    corpus, shards, runs = (args.work / name for name in ("corpus", "shards", "runs"))
    shutil.rmtree(runs, ignore_errors=True)  # so that its first run is this one

    step("1/5 composing and rendering piano pieces")
    run("packer", "sample", corpus)
    step("2/5 packing them into shards")
    split = ("--split", "train=0.75,val=0.25", "--group-by", "piece", "--shard-size", "4MB")
    run("packer", "build", corpus / "annotations.jsonl", "--out", shards, "--overwrite", *split)
    step("3/5 reading everything back")
    run("packer", "verify", shards)
    step("4/5 streaming")
    rate = streaming_rate(shards / "train")
    print(f"{rate:.0f} samples/s: ten seconds of audio, MIDI tokens and labels each")
    step("5/5 training on audio and MIDI")
    options = (f"--data.shards={shards}", f"--trainer.default_root_dir={runs}")
    run("trainer", "fit", "--config", args.config, "--mode", "fusion", *options)
    report(shards, runs, rate=rate, seconds=time.perf_counter() - began)


def step(text: str) -> None:
    print(f"\n== {text}", flush=True)


def run(module: str, *arguments: object) -> None:
    done = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def streaming_rate(dataset: Path, *, epochs: int = 5) -> float:
    """Samples a second over some epochs; the first one warms up and does not count."""
    with make_pipeline(dataset, num_workers=2) as pipe:
        for _ in pipe:
            pass
        began = time.perf_counter()
        samples = sum(len(batch["__key__"]) for _ in range(epochs) for batch in pipe)
        return samples / (time.perf_counter() - began)


def report(shards: Path, runs: Path, *, rate: float, seconds: float) -> None:
    manifests = [read_manifest(path) for path in sorted(shards.glob(f"*/{NAME}"))]
    metrics = runs / "metrics.json"
    figures = json.loads(metrics.read_text())
    before, after = figures["before"]["val/loss"], figures["best"]["val/loss"]
    baseline = figures["last"]["val/mse_mean_baseline"]
    print(f"""
== done in {seconds:.0f} s
made      {sum(m.samples for m in manifests)} samples in {sum(len(m.shards) for m in manifests)} \
shards, {sum(m.bytes for m in manifests) / 1e6:.1f} MB, under {shards}
streamed  {rate:.0f} samples/s
trained   validation loss {before:.3f} before training, {after:.3f} in the best epoch \
(all rated at the mean: {baseline:.3f})
figures   {metrics}

Where to look next: README.md for your own recordings; tensorboard --logdir {runs}""")


def read_manifest(path: Path) -> Manifest:
    return load_manifest(path.read_bytes(), name=str(path))


if __name__ == "__main__":
    main()
