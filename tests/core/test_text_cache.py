"""core/text_cache.py: the same ids as without the cache, and never more memory than its bound (rule T7)."""

from __future__ import annotations

import sys
import threading

from kimi_k2_serving.core.text_cache import ENTRY_BYTES, TextCache, packed


class Encoder:
    """An encoder with one id per character; it records the texts that it encodes."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, text: str) -> list[int]:
        self.asked.append(text)
        return [ord(character) for character in text]


def cost(text: str) -> int:
    return ENTRY_BYTES + sys.getsizeof(text) + sys.getsizeof(b"") + 4 * len(text)


def test_a_text_is_encoded_once() -> None:
    encode = Encoder()
    cache = TextCache(encode, 10_000)
    assert cache.get_all(["ab", "c", "ab"]) == {"ab": packed([97, 98]), "c": packed([99])}
    assert cache.get_all(["c", "ab"]) == {"c": packed([99]), "ab": packed([97, 98])}
    assert encode.asked == ["ab", "c"]
    assert cache.bytes == cost("ab") + cost("c")


def test_the_least_recently_used_text_goes_first() -> None:
    encode = Encoder()
    cache = TextCache(encode, 3 * cost("a"))
    cache.get_all(["a", "b", "c"])
    cache.get_all(["a"])
    cache.get_all(["d"])
    assert cache.bytes == 3 * cost("a")
    encode.asked.clear()
    cache.get_all(["a", "c", "d"])
    assert encode.asked == []
    cache.get_all(["b"])
    assert encode.asked == ["b"]


def test_one_large_text_evicts_others() -> None:
    cache = TextCache(Encoder(), cost("a" * 50))
    cache.get_all(["a", "b"])
    cache.get_all(["a" * 50])
    assert cache.bytes == cost("a" * 50)


def test_a_text_larger_than_the_bound_is_encoded_and_not_kept() -> None:
    encode = Encoder()
    cache = TextCache(encode, cost("a"))
    cache.get_all(["a"])
    assert cache.get_all(["bcd"]) == {"bcd": packed([98, 99, 100])}
    assert cache.bytes == cost("a")
    cache.get_all(["a"])
    assert encode.asked == ["a", "bcd"]


def test_a_text_that_two_threads_encode_at_once_is_kept_once() -> None:
    both = threading.Barrier(2, timeout=10)

    def encode(text: str) -> list[int]:
        both.wait()
        return [7]

    cache = TextCache(encode, 10_000)
    threads = [threading.Thread(target=cache.get_all, args=(["a"],)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.bytes == cost("a")


def test_threads_get_the_same_ids_while_texts_come_and_go() -> None:
    encode = Encoder()
    cache = TextCache(encode, 20 * cost("00"))
    wrong: list[str] = []

    def ask(seed: int) -> None:
        for i in range(300):
            texts = [f"{(seed * i + j) % 50:02}" for j in range(10)]
            answer = cache.get_all(texts)
            wrong.extend(text for text in texts if answer[text] != packed(map(ord, text)))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in (3, 5, 7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert 0 < cache.bytes <= 20 * cost("00")
