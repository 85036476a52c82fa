"""A benchmark's report as lines of text."""

from collections.abc import Iterator

from loader.bench import Rate, Report

_COLUMNS = ("cache", "workers", "samples/s", "cores", "waiting")
_FED = 0.05  # share of a training's time that may go into waiting


def write_report(report: Report) -> str:
    """A table of all settings, and the one to take."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    task, best = report.task, report.best
    if report.first_pass is not None:
        first = report.first_pass
        yield (
            f"first pass: {first.samples_per_s:.0f} samples/s while "
            f"{first.fetched_bytes_per_s / 1e6:.1f} MB/s were fetched; {first.limit}"
        )
    columns = _COLUMNS if task.step_ms else [name for name in _COLUMNS if name != "waiting"]
    yield "  ".join(f"{name:>9}" for name in columns) + "  limited by"
    for rate in report.rates:
        cells = _cells(rate)
        yield "  ".join(f"{cells[name]:>9}" for name in columns) + f"  {rate.limit}"
    yield f"cores: those kept busy, of {report.cores}"
    yield (
        f"best: num_workers={best.workers!r}, cache={best.cache!r}: "
        f"{best.samples_per_s:.0f} samples/s"
    )
    if task.step_ms:
        verdict = "is kept fed" if best.waiting <= _FED else "starves"
        yield (
            f"a training step of {task.step_ms:g} ms {verdict}: "
            f"{best.waiting:.0%} of the time goes into waiting"
        )


def _cells(rate: Rate) -> dict[str, str]:
    return {
        "cache": rate.cache,
        "workers": str(rate.workers),
        "samples/s": f"{rate.samples_per_s:.0f}",
        "cores": f"{rate.busy_cores:.1f}",
        "waiting": f"{rate.waiting:.0%}",
    }
