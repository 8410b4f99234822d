"""How much the answers of a policy differ from one another, and how long they are."""

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np

Tokens = Sequence[Hashable]

_MAX_ORDER = 4


@dataclass(frozen=True, kw_only=True)
class LengthQuantiles:
    """Tokens an answer: tenth, fiftieth and ninetieth percentile, linearly interpolated."""

    p10: float
    p50: float
    p90: float


def words(text: str) -> list[str]:
    """The tokens that the figures below take where token ids are not at hand: words and single marks, lower case."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def distinct_n(texts: Sequence[Tokens], n: int) -> float | None:
    """Share of different n-grams among all n-grams of all texts (Li et al., 1510.03055); None where there is none.

    It falls with the number of tokens: compare only sets of like size.
    """
    grams = Counter(gram for text in texts for gram in _ngrams(text, n))
    return len(grams) / grams.total() if grams else None


def self_bleu(texts: Sequence[Tokens], *, max_texts: int = 500, seed: int = 0) -> float | None:
    """Mean BLEU-4 of each text with all others as references (Zhu et al., 1802.01886): 1 where all are the same.

    Geometric mean of clipped precisions of orders 1 to 4, times the brevity penalty towards the nearest reference
    length (Papineni et al. 2002). Orders 2 to 4 are smoothed by one in numerator and denominator (Lin & Och 2004):
    one missing 4-gram does not make a short text unlike all. An empty text has 1 if another one is empty, else 0.
    Above max_texts a seeded sample of that size is measured. None with fewer than two texts.
    """
    if len(texts) < 2:
        return None
    if len(texts) > max_texts:
        texts = [texts[i] for i in sorted(np.random.default_rng(seed).choice(len(texts), max_texts, replace=False))]
    counts = [[Counter(_ngrams(text, n)) for text in texts] for n in range(1, _MAX_ORDER + 1)]
    limits = [_two_largest(of_order) for of_order in counts]
    lengths = Counter(len(text) for text in texts)
    scores = []
    for i, text in enumerate(texts):
        precisions = [
            _precision(of_order[i], largest, smoothed=n > 1)
            for n, (of_order, largest) in enumerate(zip(counts, limits, strict=True), start=1)
        ]
        scores.append(_bleu(len(text), precisions, _nearest_other(len(text), lengths)))
    return float(np.mean(scores))


def length_quantiles(lengths: Sequence[int]) -> LengthQuantiles | None:
    """Percentiles of the number of tokens of each answer; None without answers."""
    if not len(lengths):
        return None
    p10, p50, p90 = np.quantile(np.asarray(lengths, dtype=np.float64), [0.1, 0.5, 0.9])
    return LengthQuantiles(p10=float(p10), p50=float(p50), p90=float(p90))


def _ngrams(text: Tokens, n: int) -> list[tuple[Hashable, ...]]:
    return [tuple(text[start : start + n]) for start in range(len(text) - n + 1)]


def _two_largest(counts: Sequence[Counter[tuple[Hashable, ...]]]) -> dict[tuple[Hashable, ...], tuple[int, int]]:
    """The two largest counts of each n-gram over texts: what any one text can be clipped at without itself."""
    largest: dict[tuple[Hashable, ...], tuple[int, int]] = {}
    for counter in counts:
        for gram, count in counter.items():
            first, second = largest.get(gram, (0, 0))
            largest[gram] = (max(first, count), max(second, min(first, count)))
    return largest


def _precision(
    counter: Counter[tuple[Hashable, ...]],
    largest: dict[tuple[Hashable, ...], tuple[int, int]],
    *,
    smoothed: bool,
) -> float:
    matched = 0
    for gram, count in counter.items():
        first, second = largest[gram]
        # Where this text holds the largest count, the others' largest is the second.
        matched += min(count, second if count == first else first)
    return (matched + smoothed) / max(1, counter.total() + smoothed)


def _nearest_other(length: int, lengths: Counter[int]) -> int:
    others = [other for other, num in lengths.items() if other != length or num > 1]
    return min(others, key=lambda other: (abs(other - length), other))


def _bleu(length: int, precisions: Sequence[float], reference: int) -> float:
    if length == 0:
        return float(reference == 0)
    if precisions[0] == 0:
        return 0.0
    brevity = min(0.0, 1 - reference / length)
    return exp(brevity + sum(log(p) for p in precisions) / _MAX_ORDER)
