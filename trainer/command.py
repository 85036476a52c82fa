"""fit, validate and test: configs checked as a whole at the door, and the defaults of a run."""

import re
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from trainer import devices
from trainer.beginning import beginning
from trainer.callbacks import make_callbacks
from trainer.checkpoint import WholeCheckpoints, step_of
from trainer.checks import require_fit
from trainer.data import PianoData
from trainer.failures import run
from trainer.fitting import batch_that_fits
from trainer.folder import RunFolder, run_name
from trainer.memory import OutOfMemoryError, is_out_of_memory, remedies
from trainer.module import Rater
from trainer.options import add_run_options, add_sections, link
from trainer.parts import LOGS
from trainer.plan import plan_of
from trainer.sameness import differences
from trainer.stopping import Stopped, StopSignals
from trainer.trial import options_of

_RUNS = Path("runs")
# How the parser names an option that is missing, behind its command or not.
_REQUIRED = re.compile(r"(arguments are required: )(?:(?:fit|validate|test)\.)?(?=\w)")
_OTHER_MODEL = "Error(s) in loading state_dict"  # as PyTorch says it


def main(name: str, argv: list[str]) -> int:
    """Run fit, validate or test; 0, 1 if data or arguments are at fault, 130 after Ctrl-C."""
    with StopSignals() as signals:
        try:
            return run(lambda: Command([name, *argv], signals=signals))
        except Stopped as stopped:
            if not stopped.told:
                print(f"{name}: stopped by {stopped} before it began", file=sys.stderr)
            return stopped.status


class _Parser(LightningArgumentParser):
    """Names options as they are written, without the command that they belong to."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        super().error(_REQUIRED.sub(r"\1--", message), ex)


class Command(LightningCLI):
    """A config as ``model``, ``datamodule`` and ``trainer``, and a command run with them.

    A command of its own module that takes the same config and options as fit, such as a check of
    it, parses them with ``Command(argv, name="preflight", run=False)``: it has the three, built and
    not run, and what was asked for in ``asked``. A wrong key or type exits with status 2 and its
    path.
    """

    def __init__(
        self,
        args: list[str],
        *,
        name: str = "",
        run: bool = True,
        signals: StopSignals | None = None,
    ) -> None:
        """Parse, build, and run if asked to.

        Args:
            args: of the command line; the first is the command where it is to be run.
            name: of the command that is not run here, for its help.
            signals: what ends a fit after its step.
        """
        prog = f"python -m trainer {name}".strip()
        whole = {"prog": prog, "allow_abbrev": False}  # a key that is cut short is unknown
        self.signals = signals or StopSignals()
        self.folder: RunFolder
        self._name = args[0] if run else name
        with ExitStack() as self._held:
            super().__init__(
                Rater,
                PianoData,
                args=args,
                run=run,
                seed_everything_default=0,
                parser_kwargs=whole if run else whole | {"description": None},
                parser_class=_Parser,
                save_config_callback=None,
                auto_configure_optimizers=False,
                # A checkpoint holds plain values only, so that loading one runs no code.
                load_from_checkpoint_support=False,
            )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one that is called: the parser of each takes a while to make."""
        known = LightningCLI.subcommands()
        return {name: known[name] for name in known if name == self._name}

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_sections(parser)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_run_options(parser)
        link(parser)

    @property
    def asked(self) -> Any:
        """The parsed config of the command, without its name."""
        return self.config[self.subcommand] if self.subcommand else self.config

    def _parse_ckpt_path(self) -> None:
        """Let a fit's config say what the model is; elsewhere the checkpoint says it."""
        if self._name != "fit":
            super()._parse_ckpt_path()

    def before_instantiate_classes(self) -> None:
        """Find the run's folder, and what the command goes on from or looks at.

        Raises:
            ValueError: a fit would fail; what is wrong was printed, with its remedies.
        """
        asked = self.asked
        given = asked.out or asked.trainer.default_root_dir
        asked.out = str(given or _RUNS / run_name(asked.config, asked.mode))
        shared = devices.machines(asked.trainer) > 1
        self.folder = RunFolder(asked.out, cache_dir=asked.data.cache_dir, shared=shared)
        if not self.subcommand:
            return
        # Checkpoints are plain tensors and values, whatever the file claims to be.
        asked.weights_only = True
        if asked.ckpt_path is not None:
            _require_checkpoint(asked.ckpt_path, far=self.subcommand != "fit")
        if self.subcommand == "fit":
            if _is_first():
                require_fit(plan_of(asked.as_dict(), self.folder.shown))
            self._prepare_fit()
        elif asked.ckpt_path is None:
            asked.ckpt_path = str(_existing(self.folder.open().best))

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """A Trainer with folder, logger and callbacks of the run."""
        init = self.config_init[self.subcommand] if self.subcommand else self.config_init
        if self.subcommand == "fit" and init.trainer.logger and find_spec("tensorboard") is None:
            self._say("no figures for TensorBoard: pip install tensorboard")
            init.trainer.logger = False
        options |= vars(init.trainer.clone()) | devices.processes()
        options["default_root_dir"] = str(self.folder.path)
        accelerator = options["accelerator"]
        options["precision"] = devices.precision(options["precision"], accelerator=accelerator)
        files = WholeCheckpoints()
        options["plugins"] = [files]
        if self.subcommand != "fit":
            return Trainer(**options | {"logger": False})
        step = None
        if init.ckpt_path:
            step = step_of(Path(init.ckpt_path))
            options["num_sanity_val_steps"] = 0  # or Lightning does it again between two epochs
        if options["logger"]:
            # What was logged behind the checkpoint is not shown: it comes again.
            options["logger"] = TensorBoardLogger(
                self.folder.path, name="", version=LOGS, purge_step=step
            )
        options["callbacks"] = make_callbacks(init, self.folder, self.signals, files)
        return Trainer(**options)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it, and end a fit that is stopped or out of memory with what is to be done."""
        try:
            super()._run_subcommand(subcommand)
        except Stopped as stopped:
            self._tell_stopped(stopped)
            raise
        except (RuntimeError, MemoryError) as error:
            if _OTHER_MODEL in str(error):
                raise ValueError(f"--ckpt_path: {self.asked.ckpt_path}: {error}") from error
            if not is_out_of_memory(error):
                raise
            found = self.folder.checkpoint() if self.subcommand == "fit" else None
            text = remedies(error, self.plain_config(), checkpoint=found)
            raise OutOfMemoryError(text) from error
        finally:
            if _is_first():
                self._close()

    def _close(self) -> None:
        """Wait until the run lies where it is to lie."""
        try:
            self.folder.close()
        except Stopped as stopped:
            self._say(
                f"stopped by {stopped} while the run was carried to {self.asked.out}: it lies in "
                f"{self.folder.path}; the same command carries what is not there yet"
            )
            stopped.told = True
            raise

    def _prepare_fit(self) -> None:
        """Go on with the run in the folder, or begin one."""
        asked, folder = self.asked, self.folder
        if asked.trainer.fast_dev_run:
            return  # leaves nothing behind, and goes on from nothing
        if _is_first():
            if asked.fresh:
                folder.require_run()
            self._held.enter_context(folder.occupied())
            if asked.fresh:
                folder.clear()
        earlier = None if asked.fresh else folder.open().config()
        found = None if asked.fresh else folder.checkpoint()
        if asked.ckpt_path is None and earlier is not None and found is not None:
            if asked.auto_batch_size != "off":  # what was found then
                asked.data.batch_size = earlier["data"]["batch_size"]
                kept = earlier["trainer"]["accumulate_grad_batches"]
                asked.trainer.accumulate_grad_batches = kept
            self._require_same(earlier, found)
            asked.ckpt_path = str(found)
        elif asked.auto_batch_size != "off":
            self._find_batch_size()
        self._say(f"{asked.mode} in {asked.out}: {beginning(asked, folder)}")
        if _is_first():
            folder.begin(self.plain_config())

    def plain_config(self) -> dict[str, Any]:
        """The config as ``config.yaml`` holds it: what another fit would take."""
        parser = self._parser(self.subcommand)
        config: dict[str, Any] = yaml.safe_load(parser.dump(self.asked, skip_none=False))
        for key in ("config", "ckpt_path", "weights_only", "fresh"):
            config.pop(key, None)
        return config

    def _require_same(self, earlier: dict[str, Any], checkpoint: Path) -> None:
        changed = differences(earlier, self.plain_config())
        if changed:
            raise ValueError(
                f"the run in {self.asked.out} has another config:\n  "
                + "\n  ".join(changed)
                + "\nGive it another folder with --out, begin anew in this one with --fresh, or "
                f"go on nevertheless with --ckpt_path {checkpoint}"
            )

    def _find_batch_size(self) -> None:
        asked = self.asked
        if devices.several(asked.trainer):
            raise ValueError(
                "auto_batch_size: it is looked for on one device: find it with "
                "--trainer.devices 1, then give --data.batch_size"
            )
        init = self.parser.instantiate_classes(self.config)[self.subcommand]
        batch, samples = init.data.first_batch()
        self._say("looking for the largest batch that fits ...")
        found, parts = batch_that_fits(
            init.model,
            batch,
            options_of(asked.trainer),
            samples=samples,
            wanted=asked.data.batch_size if asked.auto_batch_size == "accumulate" else None,
            ahead=init.data.ahead,
        )
        asked.data.batch_size = found
        asked.trainer.accumulate_grad_batches *= parts
        accumulated = asked.trainer.accumulate_grad_batches
        self._say(f"--data.batch_size {found} --trainer.accumulate_grad_batches {accumulated}")
        self._set_seed()  # as if nothing had been tried

    def _tell_stopped(self, stopped: Stopped) -> None:
        state = self.folder.state()
        where = "before the first checkpoint"
        if state:
            where = f"in epoch {state['epoch']}, after step {state['step']}"
        self._say(f"stopped by {stopped} {where}; the same command goes on from there")
        stopped.told = True

    def _say(self, text: str) -> None:
        if _is_first():
            print(f"{self.subcommand}: {text}", file=sys.stderr, flush=True)


def _is_first() -> bool:
    """Whether this is the first of all processes, as their environment says."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def _require_checkpoint(path: str, *, far: bool) -> None:
    """Refuse what is no file; a URL is one where it may lie far away."""
    if not Path(path).is_file() and not (far and "://" in path):
        raise ValueError(f"--ckpt_path: {path} is not a file on this machine")


def _existing(best: Path) -> Path:
    if not best.exists():
        raise ValueError(f"{best} does not exist: fit first, or name a file with --ckpt_path")
    return best
