"""What is to be encoded: the samples of each recording, in jobs for workers."""

from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from packer.encode import Job, Task, shares
from packer.options import Options
from packer.plan import Group
from packer.samples import Samples
from packer.spool import Spool


class Jobs:
    """Makes the jobs of one dataset."""

    def __init__(self, samples: Samples, options: Options, spool: Spool) -> None:
        self._segments, self._records = samples.segments, samples.records
        self._corpus, self._options, self._spool = samples.corpus, options, spool
        self._seconds = array("d", (segment.duration_s for segment in samples.segments))

    def of(self, group: Group) -> list[Job]:
        """What is to be encoded for a group, in order."""
        return [
            self._job(samples)
            for recording in group.recordings
            for samples in shares(recording.indices, self._seconds)
        ]

    def _job(self, indices: Sequence[int]) -> Job:
        tasks = tuple(self._task(index) for index in indices)
        options = self._options
        job = Job(
            Path(),
            tasks,
            options.audio,
            self._corpus.extension,
            options.sample_rate,
            options.channels,
            self._corpus.has_midi,
            with_notes=options.midi == "notes",
        )
        content = [self._segments[index].content for index in indices]
        return replace(job, spool=self._spool.recording(job, content))

    def _task(self, index: int) -> Task:
        segment = self._segments[index]
        annotation = segment.annotation
        return Task(
            index=index,
            key=annotation.key,
            audio=annotation.audio,
            midi=annotation.midi,
            start_s=annotation.start_s,
            end_s=segment.end_s,
            whole=annotation.start_s == 0 and annotation.end_s is None,
            record=self._records[index],
            window=segment.window,
        )
