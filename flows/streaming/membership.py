"""A set that forgets what its members are: which of many values it may hold, at three bytes a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Hashes: TypeAlias = npt.NDArray[np.uint64]
"""64-bit hashes of values, as evenly spread as those of DuckDB's `hash`."""

Matches: TypeAlias = npt.NDArray[np.bool_]
"""One for each value."""

_BITS_A_VALUE = 24
_FIRST_WORDS = 1 << 12
_BITS_IN_A_WORD = 5
_MIXER = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio: what neighbours have in common goes."""


@dataclass(frozen=True)
class Probes:
    """Hashes, made ready to be added to or asked of any `Membership`."""

    places: tuple[Hashes, Hashes]
    """Two independent hashes of each value: their upper bits choose a word."""
    masks: tuple[Hashes, Hashes]
    """The bits that have to be set in it."""

    @classmethod
    def of(cls, hashes: Hashes) -> Probes:
        """The probes of these values."""
        other = (hashes ^ (hashes >> np.uint64(32))) * _MIXER
        return cls((hashes, other), (_mask(hashes), _mask(other)))


def _mask(hashes: Hashes) -> Hashes:
    """From the lower 30 bits, which choose no word: there are never 2^34 of them."""
    one, within = np.uint64(1), np.uint64(63)
    mask = one << (hashes & within)
    for bits in range(1, _BITS_IN_A_WORD):
        mask |= one << ((hashes >> np.uint64(6 * bits)) & within)
    return mask


class Membership:
    """A Bloom filter of two words a value (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom
    Filters, 2007), which grows by filters of twice the size each.

    Whoever was added is found. Of others, one in 10,000 is found in a filter that is full.
    """

    def __init__(self) -> None:
        self._filters: list[npt.NDArray[np.uint64]] = []
        self._room = 0
        """How many values more the last filter takes."""

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(words.nbytes for words in self._filters)

    def add(self, hashes: Hashes) -> None:
        """Add values, how many ever."""
        while hashes.size:
            if not self._room:
                size = 2 * self._filters[-1].size if self._filters else _FIRST_WORDS
                self._filters.append(np.zeros(size, np.uint64))
                self._room = size * 64 // _BITS_A_VALUE
            taken, hashes = hashes[: self._room], hashes[self._room :]
            self._room -= taken.size
            probes = Probes.of(taken)
            for places, masks in zip(probes.places, probes.masks, strict=True):
                _set(self._filters[-1], places >> _shift(self._filters[-1]), masks)

    def join(self, other: Membership) -> None:
        """Hold what another one holds, too; that one is of no use afterwards."""
        self._filters = [*other._filters, *self._filters]  # it is the last that has room

    def may_hold(self, probes: Probes) -> Matches:
        """Of each value, whether it may have been added; False is certain."""
        (first, second), (first_mask, second_mask) = probes.places, probes.masks
        found = np.zeros(first.size, np.bool_)
        for words in self._filters:
            shift = _shift(words)
            (left,) = np.nonzero((words[first >> shift] & first_mask) == first_mask)
            found[left] |= (words[second[left] >> shift] & second_mask[left]) == second_mask[left]
        return found


def _shift(words: npt.NDArray[np.uint64]) -> np.uint64:
    return np.uint64(64 - (words.size.bit_length() - 1))


def _set(words: npt.NDArray[np.uint64], places: Hashes, masks: Hashes) -> None:
    """Of two values in one word the last wins; so it is done again for those that lost."""
    while places.size:
        words[places] |= masks
        lost = (words[places] & masks) != masks
        places, masks = places[lost], masks[lost]
