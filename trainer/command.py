"""The command line: configs checked as a whole at the door, and the defaults of a run."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from trainer.data import PianoData
from trainer.history import History
from trainer.models import Mode
from trainer.module import Rater

_DESCRIPTION = (
    "Train, validate and test models that rate piano performances, on shards that packer made. "
    "Example: python -m trainer fit --config configs/demo.yaml --mode fusion"
)


class Command(LightningCLI):
    """``python -m trainer``: LightningCLI with one mode for model and data."""

    def __init__(self, args: ArgsType = None) -> None:
        """Parse, build and run; a wrong key or type exits with status 2 and its path."""
        super().__init__(
            Rater,
            PianoData,
            args=args,
            seed_everything_default=0,
            trainer_defaults=_trainer_defaults(),
            parser_kwargs={"prog": "python -m trainer", "description": _DESCRIPTION},
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            # A checkpoint holds plain values only, so that loading one runs no code.
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        known = LightningCLI.subcommands()
        return {name: known[name] for name in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what model and data must agree on."""
        parser.add_argument(
            "--mode",
            type=Mode,
            default="fusion",
            help="what the model listens to, and all that is read",
        )
        parser.link_arguments("mode", "model.mode")
        parser.link_arguments("mode", "data.mode")
        parser.link_arguments("data.sample_rate", "model.sample_rate")
        parser.link_arguments("data.statistics", "model.statistics", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Load checkpoints as plain tensors and values, whatever the file claims to be."""
        self.config[self.subcommand].weights_only = True

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Add the callbacks of a run, but for those whose part of it is switched off."""
        asked = self.config_init[self.subcommand].trainer
        self.trainer_defaults["callbacks"] = [
            callback
            for callback, wanted in (
                (History(), True),
                (_best(), asked.enable_checkpointing),
                (_last(), asked.enable_checkpointing),
                (LearningRateMonitor(logging_interval="step"), asked.logger),
                # By name: where rich is installed, Lightning would take its bar.
                (TQDMProgressBar(), asked.enable_progress_bar),
            )
            if wanted is not False
        ]
        return super().instantiate_trainer(**options)


def _trainer_defaults() -> dict[str, Any]:
    return {
        "default_root_dir": "runs",
        "max_epochs": 10,
        "log_every_n_steps": 10,
        "gradient_clip_val": 1.0,
        # All of validation before the first step: the figures to compare with.
        "num_sanity_val_steps": -1,
    }


def _best() -> ModelCheckpoint:
    return ModelCheckpoint(monitor="val/loss", filename="best", enable_version_counter=False)


def _last() -> ModelCheckpoint:
    """After every epoch, whatever the loss, and when the run is interrupted."""
    return ModelCheckpoint(
        filename="last",
        monitor=None,
        enable_version_counter=False,
        save_on_exception=True,
    )
