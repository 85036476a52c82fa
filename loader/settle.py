"""Finds how many decoding threads give most batches a second, by trying. Pure: no clock."""

_ENOUGH_BATCHES = 24
_ENOUGH_S = 0.5
_WAITING = 0.1  # share of its time that the consumer waits when decoding sets the pace
_AS_GOOD = 0.97  # of the best rate: fewer threads are better where they are as fast


class Settling:
    """Numbers of threads tried in turn, from the cores of the machine up and down.

    More threads than cores pay where reading waits for a disk, fewer where Python's lock is the
    limit, as on decoded shards. What is measured while the consumer sets the pace, or while
    shards are fetched, says nothing and is passed over.
    """

    def __init__(self, cores: int) -> None:
        """Begin with one thread a core."""
        self.number = cores
        self.settled = False
        self._ladder = sorted({1, max(1, cores // 2), cores, 2 * cores})
        self._rates: dict[int, float] = {}
        self._batches, self._seconds, self._waited = 0, 0.0, 0.0

    @property
    def most(self) -> int:
        """The largest number that may be tried."""
        return self._ladder[-1]

    def observe(self, *, seconds: float, waited_s: float, disturbed: bool) -> None:
        """Take a batch into account, and change ``number`` when enough is known of it.

        Args:
            seconds: since the batch before.
            waited_s: how much of that the consumer waited.
            disturbed: whether shards were fetched, or kept decoded, meanwhile.
        """
        if self.settled:
            return
        if disturbed:
            self._batches, self._seconds, self._waited = 0, 0.0, 0.0
            return
        self._batches += 1
        self._seconds += seconds
        self._waited += waited_s
        if self._batches < _ENOUGH_BATCHES or self._seconds < _ENOUGH_S:
            return
        if self._waited >= _WAITING * self._seconds:
            self._rates[self.number] = self._batches / self._seconds
            self._move_on()
        self._batches, self._seconds, self._waited = 0, 0.0, 0.0

    def _move_on(self) -> None:
        """Try a neighbour of the best number that is unknown yet, or keep the best."""
        best = max(self._rates, key=lambda number: self._rates[number])
        place = self._ladder.index(best)
        around = self._ladder[max(0, place - 1) : place + 2]
        unknown = [number for number in around if number not in self._rates]
        if unknown:
            self.number = unknown[0]
            return
        enough = _AS_GOOD * self._rates[best]
        self.number = min(number for number, rate in self._rates.items() if rate >= enough)
        self.settled = True
