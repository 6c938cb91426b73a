"""A deflate stream taken apart, block by block: what choices its writer made that are not zlib's.

Inflating tells what a stream holds, not how it was written, and the same bytes can be written in countless ways:
empty blocks with something in their padding, longer codes than needed, other matches. This reads the blocks
themselves. It is slow (some 10 ms for a face), and needed only where bytes cannot be compared, see `canonical`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

_FIXED, _DYNAMIC = 1, 2  # kinds of blocks; 0 is stored
_LENGTHS = (  # of a match: first length and number of extra bits, by symbol less 257
    (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0), (9, 0), (10, 0), (11, 1), (13, 1), (15, 1), (17, 1), (19, 2),
    (23, 2), (27, 2), (31, 2), (35, 3), (43, 3), (51, 3), (59, 3), (67, 4), (83, 4), (99, 4), (115, 4), (131, 5),
    (163, 5), (195, 5), (227, 5), (258, 0),
)  # fmt: skip
_DISTANCES = ((1, 0), (2, 0), *((1 + ((2 + at % 2) << (at // 2 - 1)), at // 2 - 1) for at in range(2, 30)))
_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
_FIXED_LENGTHS = [8] * 144 + [9] * 112 + [7] * 24 + [8] * 8
_END, _LONGEST = 256, 258
_LEAST = (
    8192  # symbols of a block that is not the last: zlib ends one when its buffer is full, with 32767 of them
)
_LEAST_STORED = 1024  # bytes of such a block where nothing is compressed
_SLACK = 1.02  # a code whose lengths had to be limited is not the best one


class _Damaged(ValueError):
    """The stream breaks the rules of deflate."""


@dataclass
class Stream:
    """How a deflate stream is written.

    Attributes:
        faults: what zlib never writes, in words, the first there is; empty for a stream as zlib may write it.
        stored: no block of it is compressed.
        plain: its matches are those that zlib's Z_RLE takes, which leaves no choice: every run, whole.
        end: bytes it takes.
    """

    faults: list[str] = field(default_factory=list)
    stored: bool = True
    plain: bool = True
    end: int = 0


def take_apart(data: bytes, content: bytes) -> Stream:
    """Look how a deflate stream is written.

    Args:
        data: the stream, without zlib's header; what follows its end is not looked at.
        content: what it inflates to.

    Source: RFC 1951. What zlib never does is taken from its deflate.c and trees.c, which all builds share.
    """
    found = Stream()
    try:
        _Reader(data, content, found).read()
    except (_Damaged, IndexError):
        found.faults.append("its blocks are damaged")
    found.faults = list(dict.fromkeys(found.faults))
    return found


class _Reader:
    """The bits of a stream, and what is seen in them."""

    def __init__(self, data: bytes, content: bytes, found: Stream) -> None:
        self.data, self.found, self.total = data, found, len(content)
        self.runs = _runs(content)
        self.at = self.bits = self.count = 0  # next byte; bits taken from those before it, and their number
        self.done = 0  # bytes of the content
        self.symbols: list[int] = []  # of each block that is not the last

    def read(self) -> None:
        last = False
        while (
            not last and not self.found.faults
        ):  # one is enough, and what breaks rules may take long to read
            last, kind, before = bool(self.take(1)), self.take(2), self.done
            if kind == 0:
                self._stored(last)
            elif kind in (_FIXED, _DYNAMIC):
                self.found.stored = False
                self._compressed(last, kind)
            else:
                raise _Damaged
            # zlib ends so where its buffer was just emptied, or where it compresses nothing
            usual = last and before and (kind == _FIXED or self.found.stored)
            if self.done == before and not usual:
                self.fault("an empty block")
        if self.take(self.count % 8):
            self.fault("bits after the last block")
        self.found.end = self.at - self.count // 8
        if len(set(self.symbols)) > 1:
            self.fault("blocks that end early")

    def fault(self, what: str) -> None:
        self.found.faults.append(what)

    def take(self, count: int) -> int:
        while self.count < count:
            self.bits |= self.data[self.at] << self.count
            self.at, self.count = self.at + 1, self.count + 8
        value = self.bits & ((1 << count) - 1)
        self.bits, self.count = self.bits >> count, self.count - count
        return value

    def _stored(self, last: bool) -> None:
        if self.take(self.count % 8):
            self.fault("bits before a stored block")
        length, check = self.take(16), self.take(16)
        if length != check ^ 0xFFFF or self.count:
            raise _Damaged
        if length < _LEAST_STORED and not last:
            self.fault("stored blocks that end early")
        self.at, self.done = self.at + length, self.done + length
        if self.at > len(self.data) or self.done > self.total:
            raise _Damaged

    def _compressed(self, last: bool, kind: int) -> None:
        if kind == _FIXED:
            literal, distance = _FIXED_LENGTHS, [5] * 30
        else:
            literal, distance = self._codes()
        often, far = self._symbols(literal, distance)
        if not last:
            self.symbols.append(sum(often) - 1)
            if self.symbols[-1] < _LEAST:
                self.fault("blocks that end early")
        if kind == _DYNAMIC and not (_is_best(literal, often, 15) and _is_best(distance, far, 15)):
            self.fault("a code that is not the shortest")

    def _codes(self) -> tuple[list[int], list[int]]:
        """Read the lengths of the codes of literals and of distances."""
        literals, distances, count = self.take(5) + 257, self.take(5) + 1, self.take(4) + 4
        lengths = [0] * 19
        for symbol in _ORDER[:count]:
            lengths[symbol] = self.take(3)
        if count > 4 and not lengths[_ORDER[count - 1]]:
            self.fault("a code's lengths written longer than needed")
        table, width = _table(lengths)
        said: list[tuple[int, int]] = []
        found: list[int] = []
        while len(found) < literals + distances:
            symbol = self._symbol(table, width)
            base, extra = ((3, 2), (3, 3), (11, 7))[symbol - 16] if symbol > 15 else (1, 0)
            more = self.take(extra)
            said.append((symbol, more))
            if symbol == 16 and not found:
                raise _Damaged
            found += [symbol if symbol < 16 else found[-1] if symbol == 16 else 0] * (base + more)
        first, second = found[:literals], found[literals:]
        if len(second) != distances:
            raise _Damaged
        often = [0] * 19
        for symbol, _ in said:
            often[symbol] += 1
        shortest = [*_run_lengths(first), *_run_lengths(second)]
        needless = (literals > 257 and not first[-1]) or (distances > 1 and not second[-1])
        if said != shortest or needless or not _is_best(lengths, often, 7):
            self.fault("a code's lengths written longer than needed")
        return first, second

    def _symbol(self, table: list[int], width: int) -> int:
        while self.count < width:  # beyond the end there are zeros: a code may be shorter than the widest
            byte = self.data[self.at] if self.at < len(self.data) else 0
            self.bits |= byte << self.count
            self.at, self.count = self.at + 1, self.count + 8
        entry = table[self.bits & ((1 << width) - 1)]
        if not entry:
            raise _Damaged
        self.bits, self.count = self.bits >> (entry & 15), self.count - (entry & 15)
        return entry >> 4

    def _symbols(self, literal: Sequence[int], distance: Sequence[int]) -> tuple[list[int], list[int]]:
        """Walk a block's literals and matches; count the symbols of both codes."""
        often, far = [0] * len(literal), [0] * len(distance)
        table, width = _table(literal)
        others: tuple[list[int], int] | None = None
        done, runs, plain = self.done, self.runs, self.found.plain
        while True:
            symbol = self._symbol(table, width)
            often[symbol] += 1
            if symbol < _END:
                plain = plain and runs[done] < 3
                done += 1
            elif symbol == _END:
                break
            else:
                base, extra = _LENGTHS[symbol - 257]
                length = base + self.take(extra)
                if length == _LONGEST and extra:
                    self.fault("a match's length written longer than needed")
                others = others or _table(distance)
                where = self._symbol(*others)
                far[where] += 1
                base, extra = _DISTANCES[where]
                back = base + self.take(extra)
                if back > done:
                    raise _Damaged
                plain = plain and back == 1 and min(runs[done], _LONGEST) == length
                done += length
            if done > self.total:
                raise _Damaged
        self.done, self.found.plain = done, plain
        return often, far


def _runs(content: bytes) -> list[int]:
    """Return for each place how many bytes from there on equal the one before it."""
    values = np.frombuffer(content, np.uint8)
    places = np.arange(len(values) + 1)
    ends = np.full(len(values) + 1, len(values))
    if len(values):
        changes = np.flatnonzero(np.diff(values)) + 1
        ends[: len(values)] = np.append(changes, len(values))[np.searchsorted(changes, places[:-1])]
        ends[0] = 0
    return list((ends - places).tolist())


def _table(lengths: Sequence[int]) -> tuple[list[int], int]:
    """Make the table that decodes: by the next bits, 16 · symbol + length of its code; 0 where there is none."""
    width = max(max(lengths), 1)
    table, code = [0] * (1 << width), 0
    for length in range(1, width + 1):
        code <<= 1
        for symbol, own in enumerate(lengths):
            if own == length:
                if code >= 1 << length:
                    raise _Damaged
                start = int(f"{code:0{length}b}"[::-1], 2)  # codes are read from their highest bit
                table[start :: 1 << length] = [symbol << 4 | length] * (1 << width - length)
                code += 1
    return table, width


def _run_lengths(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Write the lengths of a code as zlib's `scan_tree` does: symbol, value of its extra bits."""
    before, count = -1, 0
    most, least = (138, 3) if lengths[0] == 0 else (7, 4)
    for place, own in enumerate(lengths):
        after = lengths[place + 1] if place + 1 < len(lengths) else -1
        count += 1
        if count < most and own == after:
            continue
        if count < least:
            yield from [(own, 0)] * count
        elif own:
            if own != before:
                yield own, 0
                count -= 1
            yield 16, count - 3
        else:
            yield (17, count - 3) if count <= 10 else (18, count - 11)
        count, before = 0, own
        most, least = (138, 3) if after == 0 else (6, 3) if own == after else (7, 4)


def _is_best(lengths: Sequence[int], often: Sequence[int], longest: int) -> bool:
    """Return whether a code is as short as one can be for symbols that occur so often."""
    used = [symbol for symbol, count in enumerate(often) if count]
    given = [symbol for symbol, length in enumerate(lengths) if length]
    if len(used) < 2:  # zlib gives two symbols a code then, of one bit each
        return set(used) <= set(given) <= {0, 1, *used} and len(given) <= 2 and max(lengths) <= 1
    if used != given:
        return False
    heap = [(often[symbol], 0) for symbol in used]  # how often, and how deep the tree below is
    heapq.heapify(heap)
    cost = 0
    while len(heap) > 1:
        (one, deep), (other, deeper) = heapq.heappop(heap), heapq.heappop(heap)
        cost += one + other
        heapq.heappush(heap, (one + other, 1 + max(deep, deeper)))
    spent = sum(often[symbol] * lengths[symbol] for symbol in used)
    return spent <= (cost if heap[0][1] <= longest else cost * _SLACK)
