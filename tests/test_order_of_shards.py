"""packer.plan: shuffled by a seed, or as the annotations come."""

import corpus

from packer.build import build
from packer.options import Options
from shards.reader import ShardReader


def packed_keys(tmp_path, order: str) -> list[str]:
    annotations = corpus.write_annotations(tmp_path, samples=12)
    options = Options(sample_rate=corpus.SAMPLE_RATE, shard_bytes=40_000, order=order)
    build(annotations, str(tmp_path / order), options=options, workers=0, progress=False)
    keys = []
    for path in sorted((tmp_path / order).glob("*.tar")):
        with ShardReader(path) as reader:
            keys += [reader.members(row)[0].key for row in range(len(reader))]
    return keys


def test_the_order_given_is_kept_or_shuffled(tmp_path):
    given, shuffled = packed_keys(tmp_path, "given"), packed_keys(tmp_path, "shuffled")
    assert given == [f"audio-{number:04d}" for number in range(12)]
    assert shuffled != given
    assert sorted(shuffled) == given
