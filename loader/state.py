"""Where a pipeline stands, as a small JSON object that another run can go on from."""

from dataclasses import asdict, dataclass
from typing import Any

from loader.order import Shuffle
from shards.errors import StateError

VERSION = 1


@dataclass(frozen=True, slots=True)
class State:
    """A position in the sequence of all epochs; the same on every rank.

    Attributes:
        fingerprint: identity of the dataset.
        mixture: weights of its datasets, if it is one.
        streams: nodes when the run first started.
        epoch, position: positions of the epoch that were delivered; the next is ``position``.
    """

    fingerprint: str
    seed: int
    shuffle: Shuffle
    subset: int | None
    mixture: tuple[float, ...] | None
    streams: int
    epoch: int
    position: int

    def to_json(self) -> dict[str, Any]:
        mixture = None if self.mixture is None else list(self.mixture)
        return {"version": VERSION, **asdict(self), "mixture": mixture}


def resume_from(state: dict[str, Any], here: State, *, samples: int) -> State:
    """The state to go on from, checked against the pipeline that is to go on.

    Args:
        here: where that pipeline stands.
        samples: positions of its epoch.

    Raises:
        StateError: if it is not a state, or was taken from other data or another order; the
            message shows both values.
    """
    if not isinstance(state, dict):
        raise StateError(f"a state is a dict, got {state!r}")
    if state.get("version") != VERSION:
        raise StateError(f"state has version {state.get('version')!r}; {VERSION} is read here")
    mine = here.to_json()
    for name in ("fingerprint", "seed", "shuffle", "subset", "mixture"):
        if name not in state or state[name] != mine[name]:
            raise StateError(
                f"the state was taken with {name}={state.get(name)!r}, this pipeline has "
                f"{name}={mine[name]!r}: it cannot go on from there"
            )
    numbers = {name: state.get(name, -1) for name in ("streams", "epoch", "position")}
    for name, number in numbers.items():
        whole = isinstance(number, int) and not isinstance(number, bool)
        if not whole or number < (name == "streams") or (name == "position" and number > samples):
            raise StateError(f"state is damaged: {name}={number!r}, of {samples} samples")
    return State(**{**asdict(here), **numbers})
