"""configs/: what the experiments are, and how one key takes them from Drive to a local copy."""

from pathlib import Path

import pytest

from trainer.preflight import read_plan

CONFIGS = Path(__file__).parent.parent / "configs"
THREE = ["note_accuracy", "rhythmic_precision", "tone_quality"]
SIX = [*THREE, "dynamics_control", "articulation", "pedaling"]


@pytest.mark.parametrize(
    ("name", "dimensions"), [("experiment_10k", THREE), ("experiment_full", SIX)]
)
def test_an_experiment_streams_from_drive_through_the_local_disk(name, dimensions):
    config = ["--config", str(CONFIGS / f"{name}.yaml")]
    plan = read_plan(config)
    assert plan.data["dimensions"] == dimensions
    assert (plan.batch_size, plan.data["num_workers"]) == (16, 4)
    assert plan.url("train") == "/content/drive/MyDrive/shards/train"
    assert str(plan.cache_dir) == "/content/cache"
    local = read_plan([*config, "--data.shards", "/content/shards"])
    assert local.url("val") == "/content/shards/val"
    assert local.model == plan.model


def test_percepiano_has_its_19_dimensions():
    plan = read_plan(["--config", str(CONFIGS / "percepiano.yaml")])
    assert len(set(plan.data["dimensions"])) == 19
