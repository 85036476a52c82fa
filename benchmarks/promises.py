"""Figures of docs/guarantees.md out of recorded runs: what was injected, and what came of it."""

from collections.abc import Callable
from typing import Any

import tables
from guards import SKIPPED
from guards import guards as listed_guards

Found = dict[str, dict[str, Any]]

_SOAKED = {
    "EIO": ("EIO",),
    "ENOTCONN": ("ENOTCONN",),
    "stalls": ("stall", "timeout"),
    "resets": ("reset",),
    "cut": ("short",),
    "flips": ("flip",),
}
_UNFAULTED = "no fault"
_NOT_RECORDED = "not recorded yet"


def soaked(found: Found, kind: str) -> str:
    """How many faults of a kind the hours of streaming met."""
    counts, hours = found["soak"]["counts"], found["soak"]["hours"]
    met = sum(counts["faults by kind"][name] for name in _SOAKED[kind])
    wrong = counts["samples that were not what was packed"]
    return f"{met:,} injected in {hours:.3g} h of streaming, {wrong} samples wrong"


def contested(found: Found, fault: str) -> str:
    """What became of the samples under a fault that was put to other libraries, too."""
    outcomes = found["faults"]["libraries"]["clavier"]["outcomes"]
    outcome, samples = outcomes[fault], outcomes[_UNFAULTED]["right"]
    injected = f"{outcome['injected']} injected, " if "injected" in outcome else ""
    wrong = f", {outcome['wrong']} wrong" if outcome["right"] < samples else ""
    return f"{injected}{outcome['right']} of {samples} samples right{wrong}"


def killed(found: Found, _: str) -> str:
    """What became of a training that was killed."""
    report = found["kills"]
    equal = "equal" if report["equal"] else "not equal"
    return f"a training killed {len(report['killed_after_batches'])} times: {equal} to the bit"


def stormed(found: Found, _: str) -> str:
    """What became of a cache whose processes were killed for minutes."""
    if (report := found.get("cache_storm")) is None:
        return _NOT_RECORDED
    return (
        f"{report['killed']} of {report['started']} processes killed, "
        f"{report['shards_looked_at']:,} shards compared, {report['wrong_shards']} wrong"
    )


def fuzzed(found: Found, target: str) -> str:
    """How many inputs a target of the fuzzer took, and how many broke it."""
    if target not in (results := found.get("fuzz", {}).get("targets", {})):
        return _NOT_RECORDED
    tried = results[target]
    broke = len(tried["broke"]) or "none"
    return f"{tried['inputs']:,} inputs in {tried['seconds']} s, {broke} broke it"


def fuzz(found: Found) -> str:
    """How long the fuzzer ran, and what broke."""
    if (report := found.get("fuzz")) is None:
        return f"`make fuzz`: {_NOT_RECORDED}."
    broke = sum(len(result["broke"]) for result in report["targets"].values())
    machine = report["machine"]
    return (
        f"Inputs that broke a target: {broke}. One run of `{report['command']}` on "
        f"{machine['cores']} cores ({machine['processor']}), {machine['date']}, commit "
        f"{machine['commit']}: counts, not rates."
    )


def guards(found: Found) -> str:
    """How many guards were taken out, and how many of them their tests missed."""
    if (report := found.get("guards")) is None:
        listed = len(listed_guards())
        return (
            f"The {listed} guards in `benchmarks/guards.toml` were taken out one by one as they "
            "were listed, until each was missed; a run of all of them is not recorded yet."
        )
    missed, tried = report["noticed"], len(report["guards"])
    skipped = sum(outcome == SKIPPED for outcome in report["guards"].values())
    others = tried - missed - skipped
    passed = f" Of {others} the tests did not fail without them." if others else ""
    passed += f" Of {skipped} they need what that machine lacks." if skipped else ""
    return (
        f"So {tried} guards were taken out ({report['machine']['date']}, commit "
        f"{report['machine']['commit']}), and the tests of {missed} failed without theirs.{passed} "
        "[This is the list](benchmarks.md#guards-taken-out); what took the place of each is in "
        "`benchmarks/guards.toml`."
    )


def endurance(found: Found) -> str:
    """What the hours of streaming gave, in a table, and how they were run."""
    report = found["soak"]
    counts, verdicts = report["counts"], report["verdicts"]
    ended = counts["errors that ended an epoch, which went on from its state"]
    kinds = ", ".join(f"{kind} {n:,}" for kind, n in sorted(counts["faults by kind"].items()))
    rows = [
        [f"samples delivered, over {counts['epochs']:,} epochs", f"{counts['samples']:,}"],
        ["faults injected", f"{counts['faults']:,}: {kinds}"],
        ["errors that ended an epoch, which went on from its state", f"{ended:,}"],
        ["samples not as they were packed", f"{counts['samples that were not what was packed']:,}"],
        *([name, "yes" if held else "no"] for name, held in verdicts.items()),
        ["epochs broken off and resumed", f"{counts['resumed']:,}"],
        ["memory (RssAnon + RssShmem) of a rank, last quarter to second", _memory(report)],
        ["handles of a rank, last quarter", _last(report, "handles")],
        ["threads of a rank, last quarter", _last(report, "threads")],
        ["caches at most, of their limits", _caches(report)],
    ]
    table = tables.grid(["what", f"in {report['hours']:.3g} hours"], rows)
    return "\n\n".join([table, *report["notes"]])


def _memory(report: dict[str, Any]) -> str:
    ranks = report["memory"].values()
    ratios = [rank["ratio"] for rank in ranks]
    most = max(rank["most"] for rank in ranks) / 1e6
    return f"{min(ratios):.3g} to {max(ratios):.3g}, at most {most:.0f} MB"


def _last(report: dict[str, Any], what: str) -> str:
    found = sorted({round(rank["last"]) for rank in report[what].values()})
    return " to ".join(map(str, dict.fromkeys((found[0], found[-1]))))


def _caches(report: dict[str, Any]) -> str:
    found = report["cache"].items()
    return ", ".join(f"{name} {one['most'] / one['limit']:.3f}" for name, one in found)


# By the first word of a figure's name, which the rest of it is given to.
CELLS: dict[str, Callable[[Found, str], str]] = {
    "soak": soaked,
    "faults": contested,
    "kills": killed,
    "storm": stormed,
    "fuzz": fuzzed,
}
