"""Four folds of the PercePiano performances, no piece (or no excerpt) in two of them. Pure."""

import hashlib
from collections import Counter
from pathlib import PurePosixPath
from typing import Any, Literal

Kind = Literal["excerpt", "piece"]
Line = dict[str, Any]
FOLDS = 4
_VALIDATION = 0.12  # of what is trained on
_LARGE = 0.25  # of it: too much to give away


def distinct(lines: list[Line], digests: list[str]) -> list[Line]:
    """Each performance once, with its ``excerpt``: the name of its file without the performer.

    29 performances repeat the notes of another under another name, mostly of an excerpt that
    begins elsewhere or is longer. Such excerpts are one, or a model would be tested on what it
    was taught.

    Args:
        lines: of the annotations, with ``midi_path``.
        digests: of their notes.
    """
    first: dict[str, str] = {}
    same: dict[str, str] = {}
    for line, digest in zip(lines, digests, strict=True):
        name = _excerpt(line)
        same.setdefault(name, name)
        same[name] = min(same[name], same[first.setdefault(digest, name)])
    kept = {digest: line for line, digest in reversed(list(zip(lines, digests, strict=True)))}
    return [
        line | {"excerpt": same[_excerpt(line)]}
        for line, digest in zip(lines, digests, strict=True)
        if kept[digest] is line
    ]


def _excerpt(line: Line) -> str:
    """File names end in the excerpt's number, behind the performer's."""
    *work, _, number = PurePosixPath(line["midi_path"]).stem.split("_")
    return "_".join([*work, number])


def splits(lines: list[Line], kind: Kind, fold: int) -> list[str]:
    """train, val or test for every line of ``distinct``.

    Groups go to the smallest fold, the largest group first. A few groups of the other folds
    validate: in the order of their hash, so that the choice looks at nothing else.
    """
    of = [str(line[kind]) for line in lines]
    sizes = Counter(of)
    folds = _spread(sizes)
    training = {name: n for name, n in sizes.items() if folds[name] != fold}
    wanted, chosen = _VALIDATION * sum(training.values()), set[str]()
    for name in sorted(training, key=_hash):
        fits = training[name] <= _LARGE * sum(training.values())
        if fits and sum(training[other] for other in chosen) < wanted:
            chosen.add(name)
    return ["test" if folds[name] == fold else "val" if name in chosen else "train" for name in of]


def _spread(sizes: Counter[str]) -> dict[str, int]:
    filled, folds = [0] * FOLDS, dict[str, int]()
    for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        folds[name] = filled.index(min(filled))
        filled[folds[name]] += size
    return folds


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
