"""What evaluation measures on answers and verdicts: pure functions, from which a round's scores are put together."""

import sys
from collections.abc import Sequence
from typing import Literal

import numpy as np

from judge.types import Verdict
from orchestrator.scoreboard.diversity import distinct_n, length_quantiles, self_bleu, words
from orchestrator.scoreboard.intervals import look_alpha, mean_interval, paired_difference, prompt_preferences
from orchestrator.types import AnswerStatistics, Baseline, Interval, Standing
from orchestrator.winrate import win_rate
from rollout.types import Completion, CompletionGroup, Logps

Answers = Sequence[tuple[CompletionGroup, Completion]]


def standing(
    verdicts: Sequence[Verdict],
    before: Sequence[Verdict] | None,
    *,
    judge: Literal["judge", "gold"],
    baseline: Baseline,
    look: int,
    ours: Answers,
    theirs: Answers,
) -> Standing:
    """One judge's verdicts against one baseline; before: its verdicts on the round before; look counts from 1."""
    outcomes = [verdict.outcome for verdict in verdicts]
    preferences = prompt_preferences(verdicts)
    consistent = [verdict.consistent for verdict in verdicts if verdict.consistent is not None]
    return Standing(
        judge=judge,
        baseline=baseline,
        judge_id=verdicts[0].judge_id if verdicts else "",
        win_rate=win_rate(verdicts),
        anytime=mean_interval(list(preferences.values()), alpha=look_alpha(look)),
        change=None if before is None else paired_difference(preferences, prompt_preferences(before)),
        length_controlled=at_equal_length(verdicts, ours, theirs),
        num_wins=outcomes.count("a"),
        num_losses=outcomes.count("b"),
        num_ties=outcomes.count("tie") + outcomes.count("both_bad"),
        num_abstained=outcomes.count("abstain"),
        swap_consistency=float(np.mean(consistent)) if consistent else None,
    )


def at_equal_length(verdicts: Sequence[Verdict], ours: Answers, theirs: Answers) -> Interval | None:
    """The win rate with the judge's taste for length taken out; None where it cannot be told."""
    from orchestrator.scoreboard.length_control import length_controlled_round  # scikit-learn: seconds to import

    left, right = _characters(ours), _characters(theirs)
    decided = [verdict for verdict in verdicts if verdict.outcome != "abstain"]
    value = {"a": 1.0, "b": 0.0}
    found = length_controlled_round(
        [left[verdict.prompt_id, verdict.a] for verdict in decided],
        [right[verdict.prompt_id, verdict.b] for verdict in decided],
        [value.get(verdict.outcome, 0.5) for verdict in decided],
        prompt_ids=[verdict.prompt_id for verdict in decided],
    )
    if found is None:
        return None
    num = len({verdict.prompt_id for verdict in decided})
    return Interval(mean=found.win_rate, low=found.low, high=found.high, num_prompts=num)


def answer_statistics(
    answers: Answers, *, logps: Sequence[Logps], base_logps: Sequence[Logps], base_length: float | None
) -> AnswerStatistics | None:
    """KL, lengths and diversity of a policy's own answers; base_length is the base's mean answer in tokens.

    John Schulman's estimators with r = base / policy: k1 = -log r, k3 = r - 1 - log r.
    """
    if not answers:
        return None
    ratios = [b.astype(np.float64) - p.astype(np.float64) for b, p in zip(base_logps, logps, strict=True)]
    tokens = np.concatenate(ratios)
    sums = np.array([ratio.sum() for ratio in ratios])
    lengths = [len(completion.token_ids) for _, completion in answers]
    quantiles = length_quantiles(lengths)
    assert quantiles is not None
    texts = [words(completion.text) for _, completion in answers]
    mean = float(np.mean(lengths))
    return AnswerStatistics(
        kl_k1=float(-tokens.mean()),
        kl_k3=_k3(tokens),
        kl_sequence=float(-sums.mean()),
        kl_sequence_k3=_k3(sums),
        response_length=mean,
        length_p10=quantiles.p10,
        length_p50=quantiles.p50,
        length_p90=quantiles.p90,
        length_growth=mean / base_length if base_length else None,
        truncation_rate=float(np.mean([completion.finish_reason == "length" for _, completion in answers])),
        distinct_1=distinct_n(texts, 1),
        distinct_2=distinct_n(texts, 2),
        self_bleu=self_bleu(texts),
    )


def implicit_accuracy(
    verdicts: Sequence[Verdict], ours: dict[tuple[str, int], float], theirs: dict[tuple[str, int], float]
) -> Interval | None:
    """How often the implicit reward orders two held-out answers as the judge did, with its interval over prompts.

    ours and theirs hold log(policy / base) of each answer by (prompt_id, index); beta, a positive factor, falls out.
    Only verdicts for one side count; equal rewards are half right. None without any.
    """
    right: dict[str, list[float]] = {}
    for verdict in verdicts:
        if verdict.outcome in ("a", "b"):
            lead = ours[verdict.prompt_id, verdict.a] - theirs[verdict.prompt_id, verdict.b]
            sign = np.sign(lead) if verdict.outcome == "a" else -np.sign(lead)
            right.setdefault(verdict.prompt_id, []).append(0.5 + 0.5 * float(sign))
    return mean_interval([float(np.mean(values)) for values in right.values()])


def _k3(log_ratios: np.ndarray) -> float:
    with np.errstate(over="ignore"):
        values = np.expm1(log_ratios) - log_ratios
    # One sequence far outside the policy can pass what floats reach; JSON knows no infinity.
    return float(min(values.mean(), sys.float_info.max))


def _characters(answers: Answers) -> dict[tuple[str, int], int]:
    return {(group.prompt.prompt_id, completion.index): len(completion.text) for group, completion in answers}
