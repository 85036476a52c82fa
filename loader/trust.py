"""What is believed of shards: which were verified, and which files are not used any more."""


class Trust:
    """Kept by the numbers of shards, for all that open them.

    Attributes:
        unindexed: shards whose index is not their own: they are scanned.
    """

    def __init__(self, *, verify_hash: bool) -> None:
        """Trust all, but for their content with ``verify_hash``, until it was seen once."""
        self.verify_hash = verify_hash
        self.unindexed: set[int] = set()
        self._verified: set[int] = set()
        self._shunned: set[tuple[int, bool]] = set()

    def is_to_verify(self, number: int) -> bool:
        """Whether the content of a shard has to be compared when it is opened."""
        return self.verify_hash and number not in self._verified

    def verified(self, number: int) -> None:
        """A shard was opened; its content was compared if it had to be."""
        self._verified.add(number)

    def shun(self, number: int, *, decoded: bool) -> None:
        """Use no more what is damaged in a cache that cannot be written."""
        self._shunned.add((number, decoded))

    def is_shunned(self, number: int, *, decoded: bool) -> bool:
        """Whether the cache's file of a shard, or of its decoded copy, is not to be used."""
        return (number, decoded) in self._shunned
