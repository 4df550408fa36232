"""Who can know what has completed: vector clocks over streams that complete their work in order.

Two kinds of actors. A *sequencer* executes in order and learns by waiting. A *stream* (a datapath, a DMA ring)
completes what a sequencer gave it, in the order it was given. When a sequencer learns that piece n of a stream is
complete, it also knows that the pieces before n are, and everything that the sequencer which issued n knew when it did.
Pure bookkeeping: no instruction, no memory, no time. A piece that was issued knowing clock `c` starts after piece n of
stream s if `c[s] >= n`.

Memory use is one reference per piece, for a clock is shared by all pieces until a wait changes it.
"""

Clock = tuple[int, ...]
"""For each stream, how many of its pieces are known to be complete."""


class VectorClocks:
    """Clocks of `sequencers` sequencers over `streams` streams; pieces of a stream are numbered from 1."""

    def __init__(self, sequencers: int, streams: int) -> None:
        self._known: list[Clock] = [(0,) * streams] * sequencers
        self._issued: list[list[Clock]] = [[] for _ in range(streams)]

    def known(self, sequencer: int) -> Clock:
        """What the sequencer knows now."""
        return self._known[sequencer]

    def issue(self, sequencer: int, stream: int) -> int:
        """The sequencer gives the stream its next piece, which starts after all it knows; the piece's number."""
        issued = self._issued[stream]
        issued.append(self._known[sequencer])
        return len(issued)

    def observe(self, sequencer: int, stream: int, piece: int) -> None:
        """The sequencer has waited until `piece` of `stream` was complete."""
        known = self._known[sequencer]
        if known[stream] >= piece:
            return
        joined = list(map(max, known, self._issued[stream][piece - 1]))
        joined[stream] = piece
        self._known[sequencer] = tuple(joined)
