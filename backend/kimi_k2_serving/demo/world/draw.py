"""Random choices of one split: from lists whose items belong to one split each, and made-up values.

A fifth of each list is held out: first the items whose words all occur in other items, so that a held-out wording is
new, but its words are not. A made-up value belongs to a split by its checksum. So what one split draws, the other never
does. The same seed draws the same.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar
from zlib import crc32

from kimi_k2_serving.demo.world.lexicon import WORDS
from kimi_k2_serving.demo.world.sample import Split

_Item = TypeVar("_Item")

# Every so manieth item of a list, or made-up value, is held out.
SHARE = 5


def _parts(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


_ONSETS = _parts(
    "b,bl,br,c,ch,cl,cr,d,dr,f,fl,fr,g,gl,gr,h,j,k,kl,kr,l,m,n,p,ph,pl,pr,qu,r,s,sh,sk,sl,sm,sn,sp,st,t,th,tr,v,w,x,y,z"
)
_VOWELS = _parts("a,a,a,e,e,e,i,i,o,o,o,u,u,y,ai,au,ea,ee,ei,ie,oa,oo,ou")
_CODAS = _parts(",,,,,b,ck,d,f,g,k,l,ll,lt,m,n,nd,ng,nk,nt,p,r,rd,rk,rn,rt,s,sk,ss,st,t,th,x,z")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Choices(Sequence[_Item]):
    """A list with at least one item for each split."""

    def __init__(self, items: Sequence[_Item]) -> None:
        assert len(items) >= SHARE, items
        self._items = tuple(items)
        places = _held_out_places(items)
        self.train = tuple(item for place, item in enumerate(items) if place not in places)
        self.held_out = tuple(item for place, item in enumerate(items) if place in places)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        return self._items[place]

    def __len__(self) -> int:
        return len(self._items)

    @property
    def everything(self) -> tuple[_Item, ...]:
        """The items of both splits: for parts that are put together to something that belongs to one."""
        return self._items

    def of(self, split: Split) -> tuple[_Item, ...]:
        """The items of that split."""
        return self.train if split is Split.TRAIN else self.held_out


def pool(text: str) -> Choices[str]:
    """A pool of the lines of a text, or of its parts between bars if it has any."""
    parts = text.split("|") if "|" in text else text.splitlines()
    return Choices([part.strip() for part in parts if part.strip()])


def raw_pool(text: str) -> Choices[str]:
    """A pool of the parts between bars, with their spaces."""
    return Choices(text.split("|"))


def _held_out_places(items: Sequence[object]) -> set[int]:
    """Every fifth item as a number: those whose rarest word is the most frequent; among equals by place."""
    words = [set(_words(str(item))) for item in items]
    left = Counter(word for each in words for word in each)
    places: set[int] = set()
    for _ in range(max(1, len(items) // SHARE)):
        rest = [place for place in range(len(items)) if place not in places]
        best = max(
            rest, key=lambda place: (min((left[word] for word in words[place]), default=0), place % SHARE, place)
        )
        places.add(best)
        left.subtract(words[best])
    return places


def _words(text: str) -> list[str]:
    """Small letters of words and of the parts of names; a place for a value is no word."""
    known = text.lower()
    for part in known.split("{")[1:]:
        known = known.replace("{" + part.partition("}")[0] + "}", " ")
    return "".join(each if each.isalnum() else " " for each in known).split()


def is_held_out(value: str) -> bool:
    """The split of a made-up value. Case and separators do not matter."""
    return crc32("".join(filter(str.isalnum, value)).lower().encode()) % SHARE == 0


class Draw:
    """One source of random choices."""

    def __init__(self, split: Split, seed: int | str) -> None:
        self.split = split
        self._random = random.Random(f"{split.value} {seed}")
        self.chance = self._random.random

    def flip(self, share: float) -> bool:
        """True in that share of the draws."""
        return self.chance() < share

    def pick(self, items: Sequence[_Item]) -> _Item:
        """One item; of a pool, one of this split."""
        choices = items.of(self.split) if isinstance(items, Choices) else items
        return choices[int(self.chance() * len(choices))]

    def some(self, items: Sequence[_Item], count: int) -> list[_Item]:
        """`count` different items, or all of them in random order; of a pool, those of this split."""
        choices = items.of(self.split) if isinstance(items, Choices) else items
        return self._random.sample(choices, min(count, len(choices)))

    def weighted(self, items: Sequence[_Item], cumulative: Sequence[float]) -> _Item:
        return self._random.choices(items, cum_weights=cumulative)[0]

    def integer(self, low: int, high: int) -> int:
        """From `low` to `high`, both included."""
        return low + int(self.chance() * (high - low + 1))

    def shuffled(self, items: Sequence[_Item]) -> list[_Item]:
        return self.some(items, len(items)) if isinstance(items, Choices) else self._random.sample(items, len(items))

    def word(self, syllables: int = 0) -> str:
        """A word in small letters: made up, or an everyday one."""
        while not syllables and self.flip(0.35):
            word = self.pick(WORDS)
            if is_held_out(word) == (self.split is Split.HELD_OUT):
                return word
        while True:
            count = syllables or self.pick((1, 1, 2, 2, 2, 3))
            word = "".join(self.pick(_ONSETS) + self.pick(_VOWELS) + self.pick(_CODAS) for _ in range(count))
            if is_held_out(word) == (self.split is Split.HELD_OUT):
                return word

    def code(self) -> str:
        """Letters and digits without a meaning, such as an order number."""
        letters = "".join(self.pick(_LETTERS) for _ in range(self.integer(1, 4)))
        digits = "".join(str(self.integer(0, 9)) for _ in range(self.integer(2, 5)))
        code = self.pick(("{0}{1}", "{0}-{1}", "{0}_{1}", "{1}{0}", "#{1}", "{0}-{1}-{2}")).format(
            letters, digits, self.integer(0, 99)
        )
        return code.upper() if self.flip(0.6) else code
