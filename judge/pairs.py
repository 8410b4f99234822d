"""The training rows of a prompt, preference pairs or answers by themselves, or the one reason why it has none.

Reasons: those of judge.selection or judge.unpaired (too_few where the group has fewer completions than a row needs), or
the commonest reason for which the judge left too few of them judged.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from judge.pairing import reasons_of, values_of
from judge.pairing_config import PairingConfig
from judge.selection import Choice, select
from judge.types import Answer, PreferencePair, Score, Verdict
from judge.unpaired import select_unpaired
from rollout.types import CompletionGroup, TokenIds


def pairs_or_reason(
    group: CompletionGroup,
    answers: Sequence[Answer],
    config: PairingConfig,
    *,
    run_id: str,
    round_id: int,
    policy_version: int,
    num_filtered: Counter[str] | None = None,
) -> list[PreferencePair] | str:
    """The pairs of one prompt in the order of their slots, or the one reason under which the prompt is counted.

    Candidates that were dropped beside pairs that were kept are counted by reason into num_filtered; a prompt without
    a pair is counted once, under the commonest reason of its candidates. With keep_ties a tie is a row of its own.
    select: unpaired gives rows with one side, desirable ones as chosen; both answers of a both_bad count as lost.
    """
    is_unpaired = config.select == "unpaired"
    if is_unpaired:
        selection = select_unpaired(group, values_of(answers, both_bad=0.0), config)
    else:
        selection = select(group, values_of(answers), config)
    if selection.choices:
        if num_filtered is not None:
            num_filtered.update(selection.dropped)
        return [
            _pair(group, choice, answers, slot=slot, run_id=run_id, round_id=round_id, policy_version=policy_version)
            for slot, choice in enumerate(selection.choices)
        ]
    if selection.reason == "too_few" and len(group.completions) >= (1 if is_unpaired else 2):
        return _commonest_reason(answers)
    return selection.reason


def _pair(
    group: CompletionGroup,
    choice: Choice,
    answers: Sequence[Answer],
    *,
    slot: int,
    run_id: str,
    round_id: int,
    policy_version: int,
) -> PreferencePair:
    by_index = {completion.index: completion for completion in group.completions}
    chosen, rejected = (None if index is None else by_index[index] for index in (choice.chosen, choice.rejected))
    prompt_ids = group.prompt_token_ids
    chosen_ids, rejected_ids = (None if one is None else one.token_ids for one in (chosen, rejected))
    about = _answer_on(answers, choice)
    return PreferencePair(
        pair_id=_place_hash(run_id, round_id, group.prompt.prompt_id, slot=slot),
        content_hash=_content_hash(prompt_ids, chosen_ids, rejected_ids),
        round_id=round_id,
        prompt_id=group.prompt.prompt_id,
        prompt=group.prompt.messages,
        chosen=None if chosen is None else chosen.text,
        rejected=None if rejected is None else rejected.text,
        prompt_ids=prompt_ids,
        chosen_ids=chosen_ids,
        rejected_ids=rejected_ids,
        chosen_logps=None if chosen is None else chosen.logps,
        rejected_logps=None if rejected is None else rejected.logps,
        outcome="both_bad" if choice.outcome == "tie" and _both_bad(answers, choice) else choice.outcome,
        score_chosen=choice.value_chosen,
        score_rejected=choice.value_rejected,
        margin=choice.margin,
        p_chosen=_probability(answers, choice),
        policy_version=policy_version,
        judge_id=about.judge_id,
        source=about.source,
        chosen_truncated=chosen is not None and chosen.finish_reason == "length",
        rejected_truncated=rejected is not None and rejected.finish_reason == "length",
    )


def _both_bad(answers: Sequence[Answer], choice: Choice) -> bool:
    """Whether the judge said of exactly these two that both are bad, and nothing else."""
    said = [
        answer.outcome
        for answer in answers
        if isinstance(answer, Verdict) and {answer.a, answer.b} == {choice.chosen, choice.rejected}
    ]
    return bool(said) and set(said) == {"both_bad"}


def _probability(answers: Sequence[Answer], choice: Choice) -> float | None:
    """The judge's own probability for exactly this pair, where it was asked and gave one."""
    for answer in answers:
        if isinstance(answer, Verdict) and answer.p_a is not None:
            if (answer.a, answer.b) == (choice.chosen, choice.rejected):
                return answer.p_a
            if (answer.b, answer.a) == (choice.chosen, choice.rejected):
                return 1.0 - answer.p_a
    return None


def _answer_on(answers: Sequence[Answer], choice: Choice) -> Answer:
    """The answer whose judge the pair is put down to: judges may differ within a prompt (see judge.combined)."""
    sides = {choice.chosen, choice.rejected} - {None}
    first = choice.rejected if choice.chosen is None else choice.chosen
    for answer in answers:
        if isinstance(answer, Score):
            if answer.index == first:
                return answer
        elif sides <= {answer.a, answer.b}:
            return answer
    return answers[0]


def _commonest_reason(answers: Sequence[Answer]) -> str:
    counts = reasons_of(answers)
    return min(counts, key=lambda reason: (-counts[reason], reason)) if counts else "too_few"


def _place_hash(run_id: str, round_id: int, prompt_id: str, *, slot: int) -> str:
    place = f"{len(run_id)} {run_id} {round_id} {prompt_id} {slot}"  # the length keeps the fields apart
    return hashlib.sha256(place.encode(errors="backslashreplace")).hexdigest()[:32]


def _content_hash(*arrays: TokenIds | None) -> str:
    """sha256 of the token ids and of where each array ends; a side that is missing has no tokens."""
    digest = hashlib.sha256()
    for array in (np.zeros(0, np.int32) if array is None else array for array in arrays):
        digest.update(len(array).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(array, "<i4").tobytes())
    return digest.hexdigest()[:32]
