"""packer.preview: what a build would write, told before it does."""

import json
from pathlib import Path

import corpus
import pytest

from packer.build import build
from packer.options import Options
from packer.preview import plan
from shards.schema import Rules


@pytest.fixture(scope="module")
def annotations(tmp_path_factory) -> Path:
    """40 samples and a line whose recording is missing."""
    path = corpus.write_annotations(tmp_path_factory.mktemp("corpus"), samples=40)
    with path.open("a") as file:
        file.write(json.dumps({"audio_path": "gone.wav"}) + "\n")
    return path


@pytest.mark.parametrize("split", [{}, {"train": 3, "val": 1}])
def test_a_plan_is_what_a_build_makes(annotations, tmp_path, split):
    options = Options(
        sample_rate=corpus.SAMPLE_RATE, shard_bytes=50_000, group_bytes=200_000, split=split
    )
    planned = plan(annotations, Rules(annotations.parent), options=options, progress=False)
    assert not list(tmp_path.iterdir())
    built = build(
        annotations,
        str(tmp_path / "out"),
        options=options,
        workers=0,
        max_rejected=0.1,
        spool=tmp_path / "spool",
        progress=False,
    )
    assert [one.split for one in planned.datasets] == list(split or [""])
    for told, made in zip(planned.datasets, built, strict=True):
        assert (told.samples, told.shards) == (made.manifest.samples, len(made.manifest.shards))
        assert told.duration_s == pytest.approx(made.manifest.duration_s)
        assert told.bytes == pytest.approx(made.manifest.bytes, rel=0.15)
    assert [rejection.line for rejection in planned.rejected] == [41]
    assert planned.total == 41


def test_groups_are_counted(annotations):
    shape = {"sample_rate": corpus.SAMPLE_RATE, "shard_bytes": 50_000}
    counts = [
        plan(
            annotations,
            Rules(annotations.parent),
            options=Options(**shape, group_bytes=size),
            progress=False,
        )
        .datasets[0]
        .groups
        for size in (10**9, 200_000)
    ]
    assert counts[0] == 1 < counts[1]
