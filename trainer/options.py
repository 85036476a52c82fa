"""The options of fit, validate and test: the sections of a config, and what a run has besides."""

from typing import Any, Literal

from jsonargparse.typing import NonNegativeFloat
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from trainer.data import PianoData
from trainer.devices import Accelerator, Precision, Strategy
from trainer.models import Mode
from trainer.module import Rater

# Of Lightning's Trainer: what takes objects, which a config could only give as classes to import.
_OBJECTS = {"accelerator", "strategy", "logger", "callbacks", "profiler", "plugins", "precision"}
_DEFAULTS: dict[str, Any] = {
    "trainer.max_epochs": 10,
    "trainer.log_every_n_steps": 10,
    "trainer.gradient_clip_val": 1.0,
    # All of validation before the first step: the figures to compare with.
    "trainer.num_sanity_val_steps": -1,
}


def add_sections(parser: LightningArgumentParser) -> None:
    """``trainer``, ``model`` and ``data``; plain values alone, for a config names no classes."""
    parser.add_class_arguments(
        Trainer, "trainer", fail_untyped=False, instantiate=False, skip=set(_OBJECTS)
    )
    add = parser.add_argument
    add("--trainer.accelerator", type=Accelerator, default="auto", help="the device")
    add(
        "--trainer.strategy",
        type=Strategy,
        default="auto",
        help="of several devices; auto is ddp",
    )
    add("--trainer.logger", type=bool, default=True, help="write figures for TensorBoard")
    add(
        "--trainer.precision",
        type=Precision,
        default="auto",
        help="auto: bf16 where the device has it, fp16 on older GPUs, float32 on a CPU",
    )
    parser.set_defaults(_DEFAULTS)
    parser.add_lightning_class_args(Rater, "model")
    parser.add_lightning_class_args(PianoData, "data")


def add_run_options(parser: LightningArgumentParser) -> None:
    """What a run has besides."""
    add = parser.add_argument
    add(
        "--mode",
        type=Mode,
        default="fusion",
        help="what the model listens to, and all that is read",
    )
    add(
        "--out",
        type=str | None,
        default=None,
        help="folder of the run, or a URL; an earlier run in it goes on. Default: runs/CONFIG-MODE",
    )
    add("--fresh", action="store_true", help="remove what an earlier run left in the folder")
    add(
        "--checkpoint_minutes",
        type=NonNegativeFloat,
        default=10.0,
        help="between two checkpoints within an epoch",
    )
    add("--log_keys", type=bool, default=True, help="keys.jsonl: the samples of every batch")
    add(
        "--early_stopping",
        type=int | None,
        default=None,
        help="end after so many epochs without a better validation loss",
    )
    add(
        "--auto_batch_size",
        nargs="?",
        const="largest",
        default="off",
        type=Literal["off", "largest", "accumulate"],
        help="largest: the batch size that just fits; accumulate: at most data.batch_size, "
        "accumulated to it where it does not fit at once",
    )


def link(parser: LightningArgumentParser) -> None:
    """What model and data must agree on."""
    parser.link_arguments("mode", "model.mode")
    parser.link_arguments("mode", "data.mode")
    parser.link_arguments("data.sample_rate", "model.sample_rate")
    parser.link_arguments("data.seed", "model.seed")
    parser.link_arguments("data.statistics", "model.statistics", apply_on="instantiate")
