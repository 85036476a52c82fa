"""loader.make_pipeline: the contract's batch, epochs, states and options, on a small dataset."""

import gc
import json
import sys
import threading
import time
import warnings
from pathlib import Path

import corpus
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loader import make_pipeline
from shards.errors import DataError, DecodeError, ManifestError, StateError

RATE = corpus.SAMPLE_RATE
SMALL = {"sample_rate": RATE, "clip_seconds": 1.0, "max_notes": 4, "batch_size": 8}


def open_pipe(dataset: Path, **options):
    return make_pipeline(dataset, **{**SMALL, "num_workers": 2, **options})


def keys_of(batches) -> list[str]:
    return [key for batch in batches for key in batch["__key__"] if key]


def same(one: dict, other: dict) -> bool:
    assert one.keys() == other.keys()
    return all(
        torch.equal(torch.nan_to_num(value, nan=-9), torch.nan_to_num(other[name], nan=-9))
        if isinstance(value, torch.Tensor)
        else value == other[name]
        for name, value in one.items()
    )


def test_a_batch_is_as_the_contract_says(dataset):
    with open_pipe(dataset, fields=("audio", "midi", "labels", "json")) as pipe:
        batch = next(iter(pipe))
    shapes = {n: (tuple(v.shape), v.dtype) for n, v in batch.items() if torch.is_tensor(v)}
    assert shapes == {
        "audio": ((8, RATE), torch.float32),
        "audio_frames": ((8,), torch.int64),
        "midi": ((8, 4, 8), torch.int64),
        "midi_notes": ((8,), torch.int64),
        "labels": ((8, 2), torch.float32),
        "weight": ((8,), torch.float32),
    }
    assert len(batch["__key__"]) == len(batch["json"]) == 8
    assert batch["json"][0]["audio_path"].startswith("audio/")
    assert batch["audio"].abs().max() <= 1
    assert batch["weight"].tolist() == [1] * 8


def test_what_is_delivered_is_what_was_packed(dataset, tmp_path):
    """Audio equal to the bit through both decoders' route, labels NaN where null."""
    import soundfile

    corpus_folder = dataset.parent
    with open_pipe(dataset, fields=("audio", "labels", "json")) as pipe:
        for batch in pipe:
            for row, record in enumerate(batch["json"]):
                source, _ = soundfile.read(corpus_folder / record["audio_path"], dtype="float32")
                assert np.array_equal(batch["audio"][row].numpy(), source)
                rank, odd = batch["labels"][row].tolist()
                assert rank == pytest.approx(record["number"] / 50)
                missing = record["number"] % 4 == 3
                assert np.isnan(odd) if missing else odd == record["number"] % 2


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    world_size=st.sampled_from([1, 2, 3, 7]),
    batch_size=st.sampled_from([1, 16, 33]),
    shuffle=st.sampled_from([0, 100, "full"]),
    workers=st.sampled_from([0, 2]),
)
def test_every_sample_once_an_epoch_over_all_ranks(
    dataset, world_size, batch_size, shuffle, workers
):
    came, lengths = [], set()
    for rank in range(world_size):
        with open_pipe(
            dataset,
            fields=("labels",),
            rank=rank,
            world_size=world_size,
            batch_size=batch_size,
            shuffle=shuffle,
            num_workers=workers,
            drop_last=False,
        ) as pipe:
            batches = list(pipe)
            lengths |= {len(batches), len(pipe)}
            came += keys_of(batches)
            weights = sum(batch["weight"].sum().item() for batch in batches)
            assert weights == len(keys_of(batches))
    assert len(came) == len(set(came)) == 50
    assert len(lengths) == 1


def test_the_order_does_not_depend_on_the_number_of_workers(dataset):
    orders = []
    for workers in (0, 1, 3):
        with open_pipe(dataset, num_workers=workers, fields=("labels",)) as pipe:
            orders.append(keys_of(pipe))
    assert orders[0] == orders[1] == orders[2]


def test_epochs_differ_and_come_again(dataset):
    with open_pipe(dataset, fields=("labels",)) as pipe:
        first, second = keys_of(pipe), keys_of(pipe)
        pipe.set_epoch(0)
        again = keys_of(pipe)
    assert first == again != second


def test_drop_last_leaves_out_other_samples_each_epoch(dataset):
    with open_pipe(dataset, fields=("labels",), batch_size=16) as pipe:
        assert len(pipe) == 3
        left_out = [frozenset(keys_of(pipe)) for _ in range(3)]
    assert {len(kept) for kept in left_out} == {48}
    assert len(set(left_out)) > 1


def test_padding_is_marked_and_blank(dataset):
    with open_pipe(dataset, batch_size=16, drop_last=False) as pipe:
        last = list(pipe)[-1]
    assert last["weight"].tolist() == [1, 1] + [0] * 14
    assert last["__key__"][2:] == [""] * 14
    assert not last["audio"][2:].any()
    assert not last["midi"][2:].any()
    assert not last["audio_frames"][2:].any()
    assert last["labels"][2:].isnan().all()


def test_an_epoch_without_a_batch_is_refused(dataset):
    with open_pipe(dataset, batch_size=64) as pipe, pytest.raises(ValueError, match=r"64.*1.*50"):
        len(pipe)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    taken=st.integers(0, 6),
    shuffle=st.sampled_from([0, 20, "full"]),
    world_size=st.sampled_from([1, 2, 3]),
    batch_size=st.sampled_from([1, 5, 8]),
    workers=st.sampled_from([0, 2]),
)
def test_a_resumed_epoch_has_the_rest_once(
    dataset, taken, shuffle, world_size, batch_size, workers
):
    """Also with another world, batch size and number of workers."""
    with open_pipe(dataset, fields=("labels",), shuffle=shuffle, drop_last=False) as pipe:
        batches = iter(pipe)
        before = keys_of(next(batches) for _ in range(taken))
        state = json.loads(json.dumps(pipe.state_dict()))
    after = []
    for rank in range(world_size):
        with open_pipe(
            dataset,
            fields=("labels",),
            shuffle=shuffle,
            drop_last=False,
            rank=rank,
            world_size=world_size,
            batch_size=batch_size,
            num_workers=workers,
        ) as pipe:
            pipe.load_state_dict(state)
            after += keys_of(pipe)
    assert len(before) + len(after) == 50
    assert len({*before, *after}) == 50


def test_a_state_goes_on_with_the_very_next_batch(dataset):
    """Prefetched batches do not count: only what was delivered."""
    with open_pipe(dataset, crop="random", clip_seconds=0.5) as pipe:
        batches = iter(pipe)
        next(batches)
        state = pipe.state_dict()
        expected = [next(batches), next(batches)]
        with open_pipe(dataset, crop="random", clip_seconds=0.5, num_workers=0) as other:
            other.load_state_dict(state)
            resumed = iter(other)
            assert all(same(next(resumed), batch) for batch in expected)
            assert other.state_dict() == pipe.state_dict()


def test_a_state_after_the_last_batch_is_the_next_epoch(dataset):
    with open_pipe(dataset, fields=("labels",)) as pipe:
        batches = iter(pipe)
        for _ in range(len(pipe)):
            next(batches)
        state = pipe.state_dict()
        assert (state["epoch"], state["position"]) == (1, 0)
        expected = keys_of(pipe)
    with open_pipe(dataset, fields=("labels",)) as pipe:
        pipe.load_state_dict(state)
        assert keys_of(pipe) == expected


def test_a_state_before_any_iteration_is_valid(dataset):
    with open_pipe(dataset, fields=("labels",)) as pipe, open_pipe(dataset) as other:
        state = pipe.state_dict()
        assert (state["epoch"], state["position"]) == (0, 0)
        other.load_state_dict(state)
        assert keys_of(other) == keys_of(pipe)


def test_set_epoch_keeps_the_position_of_its_own_epoch(dataset):
    with open_pipe(dataset, fields=("labels",)) as pipe:
        whole = keys_of(pipe)
        pipe.set_epoch(0)
        next(iter(pipe))
        state = pipe.state_dict()
        pipe.load_state_dict(state)
        pipe.set_epoch(0)
        assert keys_of(pipe) == whole[8:]
        pipe.load_state_dict(state)
        pipe.set_epoch(5)
        assert len(keys_of(pipe)) == 48
        assert pipe.state_dict()["epoch"] == 6


def test_a_rest_too_small_for_a_batch_is_passed_over(dataset):
    with open_pipe(dataset, fields=("labels",), batch_size=20) as pipe:
        next(iter(pipe))
        state = pipe.state_dict()
    with open_pipe(dataset, fields=("labels",), batch_size=40) as pipe:
        pipe.load_state_dict(state)
        assert len(keys_of(pipe)) == 40
        assert pipe.state_dict()["epoch"] == 2


def test_an_epoch_that_is_asked_for_never_gives_another(dataset):
    """Where what a resumed one has left makes no batch, it gives none."""
    with open_pipe(dataset, fields=("labels",), batch_size=40) as pipe:
        epochs = [keys_of(pipe) for _ in range(2)]
        next(iter(pipe))
        state = pipe.state_dict() | {"epoch": 0, "position": 20}
        pipe.load_state_dict(state)
        pipe.set_epoch(0)
        assert keys_of(pipe) == []
        assert (pipe.state_dict()["epoch"], pipe.state_dict()["position"]) == (1, 0)
        pipe.set_epoch(1)
        assert keys_of(pipe) == epochs[1]
        pipe.set_epoch(0)
        pipe.load_state_dict(state)  # what was asked for before is forgotten
        assert keys_of(pipe) == epochs[1]


def test_a_sample_by_key_is_cropped_as_in_the_last_batch(dataset):
    options = {"fields": ("audio",), "crop": "random", "clip_seconds": 0.25, "batch_size": 25}
    with open_pipe(dataset, **options) as pipe:
        for _ in range(2):
            for batch in pipe:
                crops = [pipe[key]["audio"] for key in batch["__key__"]]
                assert torch.equal(torch.stack(crops), batch["audio"])
            assert torch.equal(pipe[batch["__key__"][0]]["audio"], batch["audio"][0])
        pipe.set_epoch(0)
        chosen = pipe[batch["__key__"][0]]["audio"]
        assert not torch.equal(chosen, batch["audio"][0])
        first = {
            key: crop for b in pipe for key, crop in zip(b["__key__"], b["audio"], strict=True)
        }
        assert torch.equal(chosen, first[batch["__key__"][0]])


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"shuffle": 7}, {"subset": 20}], ids=lambda other: next(iter(other))
)
def test_a_state_of_another_order_is_refused_with_both_values(dataset, other):
    with open_pipe(dataset) as pipe, open_pipe(dataset, **other) as changed:
        (name, value), state = next(iter(other.items())), pipe.state_dict()
        with pytest.raises(StateError, match=rf"{name}={state[name]!r}.*{name}={value!r}"):
            changed.load_state_dict(state)


def test_a_state_of_another_dataset_is_refused(dataset, tmp_path):
    other = corpus.make_dataset(tmp_path, samples=20)
    with open_pipe(dataset) as pipe, open_pipe(other) as changed:
        with pytest.raises(StateError, match="fingerprint"):
            changed.load_state_dict(pipe.state_dict())


def test_held_batches_stay_intact(dataset):
    """Buffers are used again only when nothing refers to them any more, a view included."""
    with open_pipe(dataset, prefetch=2) as pipe:
        held, copies = [], []
        for batch in pipe:
            held.append(batch)
            copies.append({n: v.clone() if torch.is_tensor(v) else v for n, v in batch.items()})
        views = [batch["audio"][:, 10:20].numpy() for batch in held]
        del batch, held[1::2]
        gc.collect()
        for _ in range(3):
            for _ in pipe:
                pass
    assert all(same(kept, copy) for kept, copy in zip(held, copies[::2], strict=True))
    for view, copy in zip(views, copies, strict=True):
        assert np.array_equal(view, copy["audio"][:, 10:20].numpy())


def test_buffers_are_used_again(dataset):
    with open_pipe(dataset, num_workers=0) as pipe:
        seen = {batch["audio"].data_ptr() for _ in range(4) for batch in pipe}
    assert len(seen) <= 3


def test_a_new_iterator_ends_the_old_one(dataset):
    with open_pipe(dataset) as pipe:
        old = iter(pipe)
        next(old)
        new = iter(pipe)
        with pytest.raises(RuntimeError, match="newer"):
            next(old)
        assert len(list(new)) == len(pipe)


def test_closing_ends_all_threads(dataset):
    before = threading.active_count()
    pipe = open_pipe(dataset)
    next(iter(pipe))
    pipe.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        iter(pipe)


def test_a_forgotten_pipeline_ends_its_threads(dataset):
    before = threading.active_count()
    pipe = open_pipe(dataset)
    next(iter(pipe))
    del pipe
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        gc.collect()  # batches in the threads' hands keep the pipeline until they are done
        time.sleep(0.02)
    assert threading.active_count() == before


def test_fields_that_were_not_asked_for_are_not_in_the_batch(dataset):
    with open_pipe(dataset, fields=("midi",)) as pipe:
        batch = next(iter(pipe))
        assert set(batch) == {"midi", "midi_notes", "weight", "__key__"}
        assert pipe.stats()["time_s"]["audio"] == 0


def test_a_field_that_the_dataset_lacks_is_refused(tmp_path):
    dataset = corpus.make_dataset(tmp_path, samples=4, audio=False)
    with open_pipe(dataset, batch_size=2) as pipe:
        assert set(next(iter(pipe))) == {"midi", "midi_notes", "labels", "weight", "__key__"}
    with pytest.raises(ValueError, match="no 'audio'"):
        open_pipe(dataset, fields=("audio",))


def test_dimensions_choose_and_order_the_labels(dataset):
    with (
        open_pipe(dataset, shuffle=0) as pipe,
        open_pipe(dataset, shuffle=0, dimensions=["odd", "rank"]) as turned,
    ):
        one, other = next(iter(pipe)), next(iter(turned))
    assert torch.equal(one["labels"].nan_to_num(-1), other["labels"].nan_to_num(-1).flip(1))
    with pytest.raises(ValueError, match=r"no label 'even'.*rank.*odd"):
        open_pipe(dataset, dimensions=["even"])


def test_labels_replace_and_add(dataset, tmp_path):
    with open_pipe(dataset, shuffle=0) as pipe:
        batch = next(iter(pipe))
    key, before = batch["__key__"][0], batch["labels"]
    labels = tmp_path / "labels.jsonl"
    labels.write_text(json.dumps({"key": key, "labels": {"rank": 7, "new": 3}}) + "\n")
    with open_pipe(dataset, shuffle=0, labels=labels) as pipe:
        after = next(iter(pipe))["labels"]
    assert after[0].tolist()[::2] == [7, 3]
    assert torch.equal(after[1:, :2].nan_to_num(-1), before[1:].nan_to_num(-1))
    assert after[1:, 2].isnan().all()


def test_int16_audio_is_float32_audio_unscaled(dataset):
    with (
        open_pipe(dataset, shuffle=0) as pipe,
        open_pipe(dataset, shuffle=0, audio_dtype="int16") as raw,
    ):
        one, other = next(iter(pipe))["audio"], next(iter(raw))["audio"]
    assert other.dtype == torch.int16
    assert torch.equal(one, other.float() / 32768)


@pytest.mark.parametrize("crop", ["start", "center", "random"])
def test_a_window_is_cut_out_of_audio_and_midi_alike(dataset, crop):
    options = {"shuffle": 0, "midi": "notes", "max_notes": 8}
    with open_pipe(dataset, **options) as pipe:
        whole = next(iter(pipe))
    with open_pipe(dataset, **options, clip_seconds=0.5, crop=crop) as pipe:
        part = next(iter(pipe))
        again = pipe[part["__key__"][2]]
    starts = set()
    for row in range(8):
        wide, narrow = whole["audio"][row], part["audio"][row]
        start = next(
            s for s in range(RATE // 2 + 1) if torch.equal(wide[s : s + RATE // 2], narrow)
        )
        starts.add(start)
        expected = [
            note[0] - start / RATE
            for note in whole["midi"][row, : whole["midi_notes"][row]].tolist()
            if note[0] + note[1] > start / RATE and note[0] < start / RATE + 0.5
        ]
        found = part["midi"][row, : part["midi_notes"][row], 0].tolist()
        assert found == pytest.approx([max(0, onset) for onset in expected], abs=1e-5)
    assert starts == {0} if crop == "start" else starts == {RATE // 4} or crop == "random"
    assert len(starts) > 1 or crop != "random"
    assert torch.equal(again["audio"], part["audio"][2])


def test_random_windows_change_with_the_epoch_alone(dataset):
    with open_pipe(dataset, crop="random", clip_seconds=0.5, shuffle=0) as pipe:
        first, second = next(iter(pipe)), next(iter(pipe))
        pipe.set_epoch(0)
        again = next(iter(pipe))
    assert torch.equal(first["audio"], again["audio"])
    assert not torch.equal(first["audio"], second["audio"])


def test_whole_samples_are_padded_to_the_longest(tmp_path):
    path = corpus.write_annotations(tmp_path, samples=4)
    corpus.write_sound(tmp_path / "audio/0002.wav", seconds=1.5)
    from packer.build import build
    from packer.options import Options

    build(path, str(tmp_path / "s"), options=Options(sample_rate=RATE), workers=0, progress=False)
    with open_pipe(tmp_path / "s", clip_seconds=None, batch_size=4, shuffle=0) as pipe:
        batch = next(iter(pipe))
    assert batch["audio"].shape == (4, RATE * 3 // 2)
    assert sorted(batch["audio_frames"].tolist()) == [RATE] * 3 + [RATE * 3 // 2]
    short = batch["audio_frames"].argmin()
    assert not batch["audio"][short, RATE:].any()


def test_audio_is_resampled_to_the_rate_asked_for(dataset):
    with open_pipe(dataset, sample_rate=RATE * 2, shuffle=0) as pipe:
        batch = next(iter(pipe))
    assert batch["audio"].shape[1] == RATE * 2
    assert (batch["audio_frames"] == RATE * 2).all()


def test_a_transform_changes_in_place_and_adds(dataset):
    def transform(sample):
        sample["audio"] *= 0
        sample["draw"] = sample["rng"].random(3)
        sample["labels"] = sample["labels"] + 1
        return sample

    with (
        open_pipe(dataset, shuffle=0) as pipe,
        open_pipe(dataset, shuffle=0, transform=transform) as changed,
    ):
        plain, one = next(iter(pipe)), next(iter(changed))
        changed.set_epoch(0)
        again, later = next(iter(changed)), next(iter(changed))
    assert not one["audio"].any()
    assert torch.equal(one["labels"].nan_to_num(-9), (plain["labels"] + 1).nan_to_num(-9))
    assert one["draw"].shape == (8, 3)
    assert torch.equal(one["draw"], again["draw"])
    assert not torch.equal(one["draw"], later["draw"])
    assert len(set(one["draw"][:, 0].tolist())) == 8


@pytest.mark.parametrize(
    "transform",
    [lambda sample: None, lambda sample: {**sample, "audio": sample["audio"][:5]}],
    ids=["none", "shape"],
)
def test_a_transform_that_breaks_the_batch_is_named_with_the_key(dataset, transform):
    with open_pipe(dataset, shuffle=0, transform=transform) as pipe:
        with pytest.raises(ValueError, match=r"sample 'audio-.*transform"):
            next(iter(pipe))


def test_an_error_of_the_transform_arrives_as_it_is(dataset):
    def transform(sample):
        raise ZeroDivisionError(sample["__key__"])

    with open_pipe(dataset, transform=transform) as pipe, pytest.raises(ZeroDivisionError):
        next(iter(pipe))


def test_subsets_lie_inside_each_other(dataset):
    found = []
    for size in (1, 7, 23, 50):
        with open_pipe(dataset, subset=size, batch_size=1, fields=("labels",)) as pipe:
            found.append(set(keys_of(pipe)))
            assert len(found[-1]) == size
    assert found[0] < found[1] < found[2] < found[3]
    with pytest.raises(ValueError, match="51"):
        open_pipe(dataset, subset=51)


def test_a_list_is_read_end_to_end(dataset, tmp_path):
    other = corpus.make_dataset(tmp_path, samples=6)
    with open_pipe([dataset, other], shuffle=0, drop_last=False, fields=("json",)) as pipe:
        numbers = [r["number"] for batch in pipe for r in batch["json"] if r]
    assert len(numbers) == 56


def test_a_mixture_tells_the_source(dataset, tmp_path):
    other = corpus.make_dataset(tmp_path, samples=10)
    with open_pipe({str(dataset): 3, str(other): 1}, fields=("labels",)) as pipe:
        sources = torch.cat([batch["source"] for batch in pipe])
        key = next(iter(pipe))["__key__"][0]
        assert len(sources) == 56
        assert (sources == 1).sum().item() == pytest.approx(14, abs=1)
        with pytest.raises(KeyError, match="source"):
            pipe[key]


def test_a_key_gives_its_sample(dataset):
    with open_pipe(dataset, shuffle=0) as pipe:
        batch = list(pipe)[3]
        sample = pipe[batch["__key__"][5]]
        assert torch.equal(sample["audio"], batch["audio"][5])
        assert torch.equal(sample["midi"], batch["midi"][5])
        with pytest.raises(KeyError, match="nobody"):
            pipe["nobody"]


def test_stats_count_what_was_delivered(dataset):
    with open_pipe(dataset) as pipe:
        for _ in pipe:
            pass
        stats = pipe.stats()
    assert (stats["samples"], stats["batches"], stats["skipped"]) == (48, 6, 0)
    assert stats["samples_per_s"] > 0
    assert set(stats["time_s"]) == {"fetch", "read", "audio", "midi", "batch"}
    assert stats["time_s"]["audio"] > 0


def test_webdataset_stages_go_on_from_a_pipeline(dataset):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its own imports
        wds = pytest.importorskip("webdataset")
    with open_pipe(dataset, fields=("labels",)) as pipe:
        counts = list(wds.DataPipeline(pipe, wds.map(lambda batch: len(batch["__key__"]))))
    assert counts == [8] * 6


def test_a_torch_dataloader_takes_it_without_workers(dataset):
    with open_pipe(dataset, fields=("labels",)) as pipe:
        loader = torch.utils.data.DataLoader(pipe, num_workers=0, batch_size=None)
        assert len(list(loader)) == 6


def test_dataloader_workers_are_refused(dataset):
    with open_pipe(dataset, fields=("labels",)) as pipe:
        loader = torch.utils.data.DataLoader(pipe, num_workers=1, batch_size=None)
        with pytest.raises(RuntimeError, match="num_workers=0, batch_size=None"):
            next(iter(loader))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"num_workers": -1}, "num_workers"),
        ({"prefetch": 0}, "prefetch"),
        ({"crop": "end"}, "crop"),
        ({"midi": "piano roll"}, "midi"),
        ({"audio_dtype": "float64"}, "audio_dtype"),
        ({"sample_rate": 0}, "sample_rate"),
        ({"clip_seconds": 0}, "clip_seconds"),
        ({"max_notes": 0}, "max_notes"),
        ({"on_error": "ignore"}, "on_error"),
        ({"max_error_rate": 2}, "max_error_rate"),
        ({"shuffle": "all"}, "shuffle"),
        ({"seed": -1}, "seed"),
        ({"cache": "warm"}, "cache"),
        ({"fields": ("sound",)}, "sound"),
        ({"fields": ()}, "fields"),
        ({"subset": 0}, "subset"),
        ({"cache_bytes": 0, "cache_mount": True}, "cache_bytes"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused_at_the_door(dataset, bad, message):
    with pytest.raises(ValueError, match=message):
        open_pipe(dataset, **bad)


def test_a_folder_of_splits_names_them(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(ManifestError, match="train/"):
        make_pipeline(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        make_pipeline(tmp_path / "nowhere")


def damage(dataset: Path, tmp_path: Path, *, flips: int) -> Path:
    """A copy whose manifest and sizes hold, with the audio of some samples spoiled."""
    import shutil

    from shards.reader import ShardReader

    copy = tmp_path / "damaged"
    shutil.copytree(dataset, copy)
    shard = copy / "shard-000000.tar"
    with ShardReader(shard) as reader:
        audio = [m for r in range(flips) for m in reader.members(r) if m.extension == "flac"]
    data = bytearray(shard.read_bytes())
    for member in audio:
        middle = member.start + member.size // 2
        data[middle : middle + 64] = bytes(64)
    shard.write_bytes(bytes(data))
    return copy


def test_damaged_audio_is_named(dataset, tmp_path):
    copy = damage(dataset, tmp_path, flips=1)
    with open_pipe(copy, shuffle=0) as pipe:
        with pytest.raises(
            DecodeError, match=r"shard-000000.tar: sample 'audio-.*miniaudio.*sound"
        ):
            list(pipe)


def test_skipped_samples_keep_their_place_and_are_listed(dataset, tmp_path):
    copy = damage(dataset, tmp_path, flips=2)
    options = {"shuffle": 0, "on_error": "skip", "max_error_rate": 0.1, "cache_dir": tmp_path / "c"}
    with open_pipe(copy, **options) as pipe, open_pipe(dataset, shuffle=0) as whole:
        batch, good = next(iter(pipe)), next(iter(whole))
        assert pipe.stats()["skipped"] == 2
    assert batch["__key__"] == good["__key__"]
    assert batch["weight"].tolist() == [0, 0] + [1] * 6
    assert not batch["audio"][:2].any()
    assert batch["labels"][:2].isnan().all()
    assert torch.equal(batch["audio"][2:], good["audio"][2:])
    listed = [json.loads(line) for line in (tmp_path / "c/errors.jsonl").read_text().splitlines()]
    assert [entry["key"] for entry in listed] == good["__key__"][:2]


def test_too_many_skipped_samples_are_an_error(dataset, tmp_path):
    copy = damage(dataset, tmp_path, flips=3)
    with open_pipe(copy, shuffle=0, on_error="skip", cache_dir=tmp_path / "c") as pipe:
        with pytest.raises(DecodeError, match=r"max_error_rate=0\.01"):
            list(pipe)


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    from shards.tar import END_OF_ARCHIVE, sample_bytes

    samples: dict[str, dict[str, bytes]] = {}
    for name, data in members.items():
        key, _, extension = name.partition(".")
        samples.setdefault(key, {})[extension] = data
    blocks = b"".join(sample_bytes(key, parts) for key, parts in samples.items())
    path.write_bytes(blocks + END_OF_ARCHIVE)
    return path


def clip(number: int = 0) -> bytes:
    import io

    import soundfile

    target = io.BytesIO()
    noise = 0.1 * np.random.default_rng(number).standard_normal(RATE)
    soundfile.write(target, noise, RATE, format="FLAC")
    return target.getvalue()


@pytest.mark.parametrize(
    "strange",
    [
        {"labels": [1, 2]},
        {"labels": "piano"},
        {"labels": 3},
        {"labels": {"genre": "jazz"}},
        {"frames": 5},
        {"duration": "1:00"},
        {"midi_beat": None, "sample_rate": -1, "frames": 2**70},
    ],
    ids=str,
)
def test_json_of_others_may_say_anything(tmp_path, strange):
    tar = write_tar(tmp_path / "a.tar", {"k.flac": clip(), "k.json": json.dumps(strange).encode()})
    with make_pipeline(str(tar), fields=("audio", "json"), **{**SMALL, "batch_size": 1}) as pipe:
        batch = next(iter(pipe))
    assert batch["json"] == [strange]
    assert batch["audio_frames"].item() == RATE


@pytest.mark.parametrize("clip_seconds", [1.0, None])
def test_damaged_json_is_skipped_in_every_epoch(tmp_path, clip_seconds):
    members = {"a.flac": clip(), "a.json": b"{}", "b.flac": clip(1), "b.json": b"{"}
    tar = write_tar(tmp_path / "a.tar", members)
    options = {**SMALL, "batch_size": 2, "clip_seconds": clip_seconds, "cache_dir": tmp_path / "c"}
    with make_pipeline(
        str(tar),
        fields=("audio",),
        shuffle=0,
        on_error="skip",
        max_error_rate=0.5,
        cache="decoded",
        **options,
    ) as pipe:
        for _ in range(3):
            assert next(iter(pipe))["weight"].tolist() == [1, 0]
            time.sleep(0.3)  # by then the decoded copy is read


def test_fields_of_a_transform_are_of_one_type(dataset):
    def transform(sample):
        first = sample["__key__"].endswith("0")
        return {**sample, "gain": np.int64(0) if first else np.float64(0.5)}

    with open_pipe(dataset, batch_size=25, transform=transform) as pipe:
        with pytest.raises(ValueError, match="'gain'"):
            list(pipe)


def test_padding_has_the_fields_of_a_transform_on_every_rank(dataset):
    def transform(sample):
        return {**sample, "gain": np.float32(2)}

    options = {"batch_size": 25, "world_size": 3, "drop_last": False, "transform": transform}
    for rank in range(3):
        with open_pipe(dataset, rank=rank, **options) as pipe:
            (batch,) = list(pipe)
            assert batch["gain"].tolist() == ([2] * 25 if rank < 2 else [0] * 25)


def test_an_error_of_a_transform_names_the_sample(dataset):
    def transform(sample):
        return sample["nothing"]

    with open_pipe(dataset, transform=transform) as pipe:
        with pytest.raises(KeyError) as caught:
            next(iter(pipe))
    assert "sample 'audio-" in caught.value.__notes__[0]


def test_a_batch_that_does_not_arrive_is_not_counted(dataset, monkeypatch):
    from loader.device import Stay

    with open_pipe(dataset, fields=("labels",)) as pipe:
        batches = iter(pipe)
        next(batches)
        state = pipe.state_dict()
        monkeypatch.setattr(Stay, "receive", lambda self, sent: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            next(batches)
        assert pipe.state_dict() == state
        with pytest.raises(StopIteration):
            next(batches)


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_a_forked_child_is_told_so(dataset):
    import os
    import signal

    with open_pipe(dataset, fields=("labels",)) as pipe:
        batches = iter(pipe)
        next(batches)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
            child = os.fork()
        if not child:
            signal.alarm(20)  # it waits for threads that are not there, unless it is told
            try:
                next(batches)
            except RuntimeError as error:
                os._exit(0 if "fork" in str(error) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    "spoiled", [{"position": 51}, {"position": -1}, {"epoch": None}, {"streams": 0}]
)
def test_a_damaged_state_is_refused(dataset, spoiled):
    with open_pipe(dataset) as pipe:
        with pytest.raises(StateError, match=next(iter(spoiled))):
            pipe.load_state_dict(pipe.state_dict() | spoiled)
        with pytest.raises(StateError, match="version"):
            pipe.load_state_dict(pipe.state_dict() | {"version": 99})


def test_skips_are_allowed_by_the_epoch_also_when_resumed(dataset, tmp_path):
    copy = damage(dataset, tmp_path, flips=1)
    options = {"shuffle": "full", "on_error": "skip", "max_error_rate": 0.02, "cache_dir": tmp_path}
    with open_pipe(copy, fields=("audio",), **options) as pipe:
        batches = iter(pipe)
        states = [pipe.state_dict()]
        for _ in batches:
            states.append(pipe.state_dict())
        for number, state in enumerate(states[:-1]):
            pipe.load_state_dict(state)
            assert len(list(pipe)) == len(states) - 1 - number


def test_set_epoch_shows_in_the_state(dataset):
    with open_pipe(dataset, fields=("labels",)) as pipe:
        pipe.set_epoch(5)
        assert pipe.state_dict()["epoch"] == 5
        next(iter(pipe))
        pipe.set_epoch(9)
        assert pipe.state_dict()["epoch"] == 5  # of the iteration in hand


def test_an_exhausted_iterator_stays_so(dataset):
    with open_pipe(dataset, fields=("labels",)) as pipe:
        old = iter(pipe)
        list(old)
        iter(pipe)
        with pytest.raises(StopIteration):
            next(old)


def test_settings_are_whole_numbers(dataset):
    for bad in ({"batch_size": 2.5}, {"shuffle": None}, {"shuffle": 10.5}, {"seed": 2**64}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            open_pipe(dataset, **bad)
    with open_pipe(dataset, seed=np.int64(3), batch_size=np.int32(8)) as pipe:
        json.dumps(pipe.state_dict())
    with pytest.raises(ValueError, match="clip_seconds"):
        open_pipe(dataset, clip_seconds=1e-6)


def test_a_device_gets_float32_audio(dataset):
    with open_pipe(dataset, device="cpu", audio_dtype="int16", shuffle=0) as pipe:
        batch = next(iter(pipe))
    assert batch["audio"].dtype == torch.float32
    assert batch["audio"].abs().max() <= 1


def test_large_members_that_nobody_asked_for_are_not_read(tmp_path, monkeypatch):
    from shards.reader import ShardReader

    read, original = [], ShardReader.read_into

    def counted(self, buffer, start):
        read.append(len(buffer))
        original(self, buffer, start)

    members = {"k.json": b"{}", "k.mp4": bytes(5_000_000), "k.flac": clip()}
    tar = write_tar(tmp_path / "a.tar", members)
    monkeypatch.setattr(ShardReader, "read_into", counted)
    with make_pipeline(str(tar), **{**SMALL, "batch_size": 1}) as pipe:
        assert next(iter(pipe))["audio"].any()
    assert sum(read) < 100_000


def test_buffers_of_many_sizes_do_not_pile_up():
    from loader.buffers import BufferPool

    pool = BufferPool(4)
    for size in range(1000, 400_000, 1000):
        pool.lease((size,), np.float32)
    pool.lease((1,), np.float32)
    assert sum(len(block) for block in pool._free) <= 4 * 1_600_000
    assert len(pool._free) <= 4


def test_the_end_of_a_lease_runs_no_python():
    """A signal that arrives in a callback of the collector is lost, and Ctrl-C with it."""
    from loader.buffers import BufferPool

    pool, called = BufferPool(4), []
    array = pool.lease((16,), np.float32)
    address = array.ctypes.data
    sys.setprofile(lambda frame, event, _: called.append(frame) if event == "call" else None)
    try:
        del array
    finally:
        sys.setprofile(None)
    assert called == []
    assert pool.lease((16,), np.float32).ctypes.data == address
