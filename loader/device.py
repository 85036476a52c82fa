"""Moves batches to where they are used; to a GPU beside its computing, as 16-bit audio."""

import logging
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from loader.batch import Batch
from loader.recipe import AudioDtype, Transform
from shards.pcm import INT16_SCALE

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Sent:
    """A batch on its way: ``event`` is recorded behind its copies, None where there are none."""

    batch: Batch
    event: Any = None


class Mover(Protocol):
    """Takes a batch from memory to a device."""

    def send(self, batch: Batch) -> Sent:
        """Begin; called in the thread that decoded the batch."""

    def receive(self, sent: Sent) -> Batch:
        """The batch, ready for what the caller's thread computes next."""


def choose_device(device: str | torch.device | None) -> torch.device | None:
    """The device, or the CPU with a warning where it is CUDA and there is none."""
    if device is None:
        return None
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r}: {error}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        log.warning("device=%r, but this PyTorch finds no CUDA: batches stay in memory", device)
        return torch.device("cpu")
    return chosen


def dtype_in_memory(
    asked: AudioDtype, device: torch.device | None, transform: Transform | None
) -> AudioDtype:
    """16 bits for CUDA, which scales them itself: half the bytes over the bus.

    A transform gets what was asked for.
    """
    on_cuda = device is not None and device.type == "cuda"
    return "int16" if on_cuda and transform is None else asked


def make_mover(device: torch.device | None) -> Mover:
    """The way to a device; None leaves batches in memory."""
    if device is None:
        return Stay()
    return CudaMover(device) if device.type == "cuda" else PlainMover(device)


class Stay:
    """Leaves batches where they are, as they are."""

    def send(self, batch: Batch) -> Sent:
        return Sent(batch)

    def receive(self, sent: Sent) -> Batch:
        return sent.batch


class PlainMover:
    """Copies batches to a device, audio as float32 in [-1, 1]."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def send(self, batch: Batch) -> Sent:
        # waited for: the pool uses the batch's memory again as soon as nothing refers to it
        return Sent(_scaled(_moved(batch, self._device, non_blocking=False)))

    def receive(self, sent: Sent) -> Batch:
        return sent.batch


class CudaMover:
    """Copies batches out of pinned memory on a stream of its own, and scales them there.

    A batch in memory is let go, and its buffers with it, only once its copy is done: the GPU
    reads them by itself.
    """

    def __init__(self, device: torch.device) -> None:
        """Make the stream; a device without a number is the current one."""
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copying: deque[tuple[Any, Batch]] = deque()
        self._lock = threading.Lock()

    def send(self, batch: Batch) -> Sent:
        # leaving a stream for a device that the thread does not use would make a context there
        with torch.cuda.device(self._stream.device), torch.cuda.stream(self._stream):
            moved = _scaled(_moved(batch, self._stream.device, non_blocking=True))
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        with self._lock:
            self._copying.append((event, batch))
        return Sent(moved, event)

    def receive(self, sent: Sent) -> Batch:
        with torch.cuda.device(self._stream.device):
            current = torch.cuda.current_stream()
            current.wait_event(sent.event)
            for value in sent.batch.values():
                if isinstance(value, torch.Tensor):
                    value.record_stream(current)  # its memory was taken on the side stream
            with self._lock:
                while self._copying and self._copying[0][0].query():
                    self._copying.popleft()
        return sent.batch


def _moved(batch: Batch, device: torch.device, *, non_blocking: bool) -> Batch:
    return {
        name: value.to(device, non_blocking=non_blocking)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in batch.items()
    }


def _scaled(batch: Batch) -> Batch:
    """The batch with audio as float32 in [-1, 1]."""
    if "audio" in batch and batch["audio"].dtype == torch.int16:
        batch["audio"] = batch["audio"].float().mul_(1 / INT16_SCALE)
    return batch
