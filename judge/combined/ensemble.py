"""Several judges asked alike: mean, worst case, mean - lambda * std, or majority.

Source of the combinations: Coste et al., "Reward Model Ensembles Help Mitigate Overoptimization" (arXiv:2310.02743).
Scores are combined as they are: members of different scales need scales of their own before a mean says anything.
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from judge.combined.members import Members, gather_all
from judge.config import EnsembleBackend
from judge.pairing import lead_of
from judge.protocol import Judge, Question, Scorer
from judge.types import Outcome, Score, Verdict
from judge.values import outcome_of
from rollout.errors import DataError
from rollout.types import CompletionGroup


class _Ensemble(Members):
    def __init__(self, config: EnsembleBackend, members: Sequence[Judge]) -> None:
        settings = {"std_weight": config.std_weight, "min_judges": config.min_judges}
        super().__init__(members, name=f"ensemble:{config.combine}", settings=settings)
        self._config = config


class EnsembleJudge(_Ensemble):
    """Combines verdicts, each comparison by itself over the members that answered it.

    mean: of the probabilities. worst_case: where all members are on one side, the probability of the least convinced;
    where they are not, a tie. mean_minus_std: the mean, moved towards one half by lambda standard deviations, and not
    past it. A verdict without a probability counts as 1, 0 or 0.5. majority: of the outcomes, a tie where two lead.
    """

    async def judge(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        """See Judge.judge."""
        given = await gather_all(member.judge(questions) for member in self.members)
        return [
            [self._combined(list(verdicts)) for verdicts in zip(*of_question, strict=True)]
            for of_question in zip(*given, strict=True)
        ]

    def _combined(self, verdicts: Sequence[Verdict]) -> Verdict:
        answered = [verdict for verdict in verdicts if verdict.outcome != "abstain"]
        outcome: Outcome
        p_a: float | None
        if len(answered) < self._config.min_judges:
            outcome, p_a = "abstain", None
        elif self._config.combine == "majority":
            outcome, p_a = _majority([verdict.outcome for verdict in answered]), None
        else:
            p_a = 0.5 + _combined_lead([lead_of(verdict) for verdict in answered], self._config)
            alike = {verdict.outcome for verdict in answered}
            outcome = "both_bad" if alike == {"both_bad"} else outcome_of(p_a, 0.5)
        consistent = [verdict.consistent for verdict in answered if verdict.consistent is not None]
        return Verdict(
            prompt_id=verdicts[0].prompt_id,
            a=verdicts[0].a,
            b=verdicts[0].b,
            outcome=outcome,
            p_a=p_a,
            judge_id=self.judge_id,
            source=self.source,
            consistent=all(consistent) if consistent else None,
            reason=(_commonest(one.reason for one in verdicts) or "abstained") if outcome == "abstain" else "",
            evidence=_as_json([{"outcome": one.outcome, "p_a": one.p_a, **_origin(one)} for one in verdicts]),
        )


class EnsembleScorer(_Ensemble, Scorer):
    """Combines scores: mean, worst_case (the lowest), or mean_minus_std.

    Values over different sets of members cannot be compared within one prompt, so a member counts only where it scored
    every completion of the prompt that any member scored. Fewer such members than min_judges, and the prompt abstains.
    """

    async def score(self, groups: Sequence[CompletionGroup]) -> list[list[Score]]:
        """See Scorer.score."""
        scorers = [member for member in self.members if isinstance(member, Scorer)]
        given = await gather_all(scorer.score(groups) for scorer in scorers)
        return [self._of_prompt(of_group) for of_group in zip(*given, strict=True)]

    def _of_prompt(self, given: Sequence[Sequence[Score]]) -> list[Score]:
        """given: each member's scores of one prompt's completions."""
        columns = list(zip(*given, strict=True))
        wanted = [place for place, scores in enumerate(columns) if any(one.value is not None for one in scores)]
        complete = [
            number for number, scores in enumerate(given) if all(scores[place].value is not None for place in wanted)
        ]
        why = _commonest(score.reason for scores in given for score in scores)
        found = []
        for scores in columns:
            values = [scores[number].value for number in complete]
            value: float | DataError
            if len(values) < self._config.min_judges or None in values:
                value = DataError(_commonest(score.reason for score in scores) or why)
            else:
                value = self._combined([value for value in values if value is not None])
            reason = (value.reason or "abstained") if isinstance(value, DataError) else ""
            evidence = [{"value": one.value, "counted": n in complete, **_origin(one)} for n, one in enumerate(scores)]
            score = Score(
                prompt_id=scores[0].prompt_id,
                index=scores[0].index,
                value=None if isinstance(value, DataError) else value,
                judge_id=self.judge_id,
                source=self.source,
                reason=reason,
                evidence=_as_json(evidence),
            )
            found.append(score)
        return found

    def _combined(self, values: Sequence[float]) -> float | DataError:
        try:
            mean = statistics.fmean(values)
            if self._config.combine == "worst_case":
                return min(values)
            lead = self._config.std_weight * _std(values) if self._config.combine == "mean_minus_std" else 0.0
        except OverflowError:
            return DataError("judge_not_finite")
        return mean - lead if math.isfinite(mean - lead) else DataError("judge_not_finite")


def build_ensemble(config: EnsembleBackend, members: Sequence[Judge]) -> Judge:
    """A scorer where all members score and their scores are combined; otherwise, and for majority, a judge of pairs."""
    if config.combine != "majority" and all(isinstance(member, Scorer) for member in members):
        return EnsembleScorer(config, members)
    return EnsembleJudge(config, members)


def _combined_lead(leads: Sequence[float], config: EnsembleBackend) -> float:
    """leads: each member's probability of a, less one half. Exchanging a and b changes the sign and nothing else."""
    mean = math.fsum(leads) / len(leads)
    if config.combine == "mean":
        return mean
    if config.combine == "mean_minus_std":
        return math.copysign(max(abs(mean) - config.std_weight * _std(leads), 0.0), mean)
    one_sided = all(lead > 0 for lead in leads) or all(lead < 0 for lead in leads)
    return min(leads, key=abs) if one_sided else 0.0


def _majority(outcomes: Sequence[Outcome]) -> Outcome:
    ranked = Counter(outcomes).most_common()
    return "tie" if len(ranked) > 1 and ranked[0][1] == ranked[1][1] else ranked[0][0]


def _std(values: Sequence[float]) -> float:
    """Population standard deviation, 0 for a single value, without the overflow of squares."""
    scale = max(map(abs, values))
    return scale * statistics.pstdev(value / scale for value in values) if scale else 0.0


def _commonest(reasons: Iterable[str]) -> str:
    """The commonest reason that is one, the first in the alphabet among equals; "" where there is none."""
    counts = Counter(reason for reason in reasons if reason)
    return min(counts, key=lambda reason: (-counts[reason], reason), default="")


def _origin(answer: Score | Verdict) -> dict[str, str]:
    return {"judge_id": answer.judge_id} | ({"reason": answer.reason} if answer.reason else {})


def _as_json(members: Sequence[Mapping[str, object]]) -> bytes:
    return json.dumps(members, sort_keys=True).encode()
