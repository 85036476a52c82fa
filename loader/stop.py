"""The end of a pipeline, which ends whatever waits in it."""

import threading


class StoppedError(Exception):
    """What was under way was told to stop; what came so far is kept for the next one."""


class Stop(threading.Event):
    """Set once a store is closed."""

    def pause(self, seconds: float) -> None:
        """Wait; raise StoppedError once it is set."""
        if self.wait(seconds):
            raise StoppedError
