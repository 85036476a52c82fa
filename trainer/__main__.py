"""Train models that rate piano performances, on shards that packer made."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

# A command is a line here and a module with ``main(name, argv)``, which gets the arguments behind
# the name and returns an exit status. The module is imported when its command is called.
COMMANDS = {
    "fit": ("train a model, or go on with a run that was stopped", "trainer.command"),
    "validate": ("figures of a checkpoint on the val split", "trainer.command"),
    "test": ("figures of a checkpoint on the test split", "trainer.command"),
    "predict": ("ratings of shards or of whole recordings", "trainer.predict"),
    "preflight": ("what would stop or slow a run, before it begins", "trainer.preflight"),
}
_USAGE = """usage: python -m trainer COMMAND [options]

{about}

commands:
{commands}

examples:
  python -m trainer fit --config configs/experiment_10k.yaml --mode fusion
  python -m trainer fit --config configs/demo.yaml --out runs/mine --data.batch_size 8
  python -m trainer fit --config configs/demo.yaml --print_config    all keys and their values
  python -m trainer test --config configs/experiment_10k.yaml --mode fusion
  python -m trainer predict --checkpoint BEST.ckpt concert.wav concert.mid --out ratings.jsonl
  python -m trainer preflight --config configs/experiment_10k.yaml --mode fusion

fit goes on by itself where an earlier one of the same folder and config was stopped.
python -m trainer COMMAND --help tells the options of a command."""


class Main(Protocol):
    """What the module of a command offers."""

    def main(self, name: str, argv: list[str]) -> int:
        """Run the command; return its exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, 1 if data or arguments are at fault, 2 if there is no such command."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help"):
        print(usage())
        return 0 if given else 2
    name, *rest = given
    if name not in COMMANDS:
        print(f"{usage()}\n\nerror: there is no command {name!r}", file=sys.stderr)
        return 2
    # PyTorch and Lightning take seconds to import: help comes before, and silence looks broken.
    if "-h" not in rest and "--help" not in rest and "--print_config" not in rest:
        print(f"{name}: starting PyTorch and Lightning ...", file=sys.stderr, flush=True)
    try:
        return cast(Main, import_module(COMMANDS[name][1])).main(name, rest)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130


def usage() -> str:
    """What ``--help`` prints: the commands, each in a line, and examples."""
    lines = (f"  {name:<10} {text}" for name, (text, _) in COMMANDS.items())
    return _USAGE.format(about=__doc__, commands="\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
