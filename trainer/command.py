"""fit, validate and test: configs checked as a whole at the door, and the defaults of a run."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from trainer.callbacks import make_callbacks
from trainer.checks import require_fit
from trainer.data import PianoData
from trainer.failures import run
from trainer.models import Mode
from trainer.module import Rater
from trainer.plan import plan_of

_RUNS = Path("runs")


def main(name: str, argv: list[str]) -> int:
    """Run fit, validate or test; 0, 1 if data or arguments are at fault."""
    return run(lambda: Command([name, *argv]))


class Command(LightningCLI):
    """A config as ``model``, ``datamodule`` and ``trainer``, and a command run with them.

    A command of its own module that takes the same config and options as fit, such as a check of
    it, parses them with ``Command(argv, name="preflight", run=False)``: it has the three, built and
    not run, and what was asked for in ``config``. A wrong key or type exits with status 2 and its
    path.
    """

    def __init__(self, args: list[str], *, name: str = "", run: bool = True) -> None:
        """Parse, build, and run if asked to.

        Args:
            args: of the command line; the first is the command where it is to be run.
            name: of the command that is not run here, for its help.
        """
        prog = f"python -m trainer {name}".strip()
        super().__init__(
            Rater,
            PianoData,
            args=args,
            run=run,
            seed_everything_default=0,
            trainer_defaults=_trainer_defaults(),
            parser_kwargs={"prog": prog} if run else {"prog": prog, "description": None},
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
        parser.add_argument(
            "--out",
            type=str | None,
            default=None,
            help="folder of the run; default: runs/CONFIG-MODE",
        )
        parser.link_arguments("mode", "model.mode")
        parser.link_arguments("mode", "data.mode")
        parser.link_arguments("data.sample_rate", "model.sample_rate")
        parser.link_arguments("data.statistics", "model.statistics", apply_on="instantiate")

    @property
    def asked(self) -> Any:
        """The parsed config of the command, without its name."""
        return self.config[self.subcommand] if self.subcommand else self.config

    @property
    def folder(self) -> Path:
        """Of the run."""
        asked = self.asked
        given = asked.out or asked.trainer.default_root_dir
        return Path(given) if given else _RUNS / run_name(asked.config, asked.mode)

    def before_instantiate_classes(self) -> None:
        """Load checkpoints as plain tensors and values; look at what a run needs before it begins.

        Raises:
            ValueError: it would fail; what is wrong was printed, with its remedies.
        """
        if self.subcommand:
            self.asked.weights_only = True
        if self.subcommand == "fit" and not getattr(rank_zero_only, "rank", 0):
            require_fit(plan_of(self.asked.as_dict(), self.folder))

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Add folder, logger and callbacks of a run."""
        asked = self.config_init[self.subcommand] if self.subcommand else self.config_init
        options["default_root_dir"] = str(self.folder)
        if self.subcommand == "fit":
            self.trainer_defaults["callbacks"] = make_callbacks(asked, self.folder)
            if asked.trainer.logger in (None, True):
                options["logger"] = TensorBoardLogger(self.folder, name="", version="logs")
        return super().instantiate_trainer(**options)


def run_name(configs: list[Any] | None, mode: str) -> str:
    """What a run is called that was given no folder: after its last config and its mode."""
    return f"{Path(str(configs[-1])).stem}-{mode}" if configs else mode


def _trainer_defaults() -> dict[str, Any]:
    return {
        "max_epochs": 10,
        "log_every_n_steps": 10,
        "gradient_clip_val": 1.0,
        # All of validation before the first step: the figures to compare with.
        "num_sanity_val_steps": -1,
    }
