"""Judges that answer as they are told, and remember what they were asked."""

from judge.protocol import Judge, Scorer
from judge.types import JudgeReport, Score, Verdict


class ToldScorer(Scorer):
    """Scores by text; an entry that is a string is an abstention for that reason, an exception is raised."""

    source = "function"

    def __init__(self, name, scores):
        self.judge_id = name
        self.told = scores
        self.asked = []
        self.state = "new"

    async def start(self):
        self.state = "started"

    async def close(self):
        self.state = "closed"

    def report(self):
        return JudgeReport(counts={"calls": len(self.asked)}, notices=(f"{self.judge_id} was here",))

    async def score(self, groups):
        if isinstance(self.told, Exception):
            raise self.told
        self.asked.append([[one.text for one in group.completions] for group in groups])
        return [[self._score(group, one) for one in group.completions] for group in groups]

    def _score(self, group, completion):
        told = self.told[completion.text]
        return Score(
            prompt_id=group.prompt.prompt_id,
            index=completion.index,
            value=None if isinstance(told, str) else told,
            judge_id=self.judge_id,
            source=self.source,
            reason=told if isinstance(told, str) else "",
        )


class ToldJudge(Judge):
    """Compares by the pair of texts: a probability, an outcome, or (abstains for) any other string."""

    source = "llm"

    def __init__(self, name, verdicts):
        self.judge_id = name
        self.told = verdicts
        self.asked = []

    async def judge(self, questions):
        if isinstance(self.told, Exception):
            raise self.told
        self.asked.append([question.wanted for question in questions])
        return [[self._verdict(question.group, *pair) for pair in question.wanted] for question in questions]

    def _verdict(self, group, a, b):
        texts = {one.index: one.text for one in group.completions}
        told = self.told[texts[a] + texts[b]] if isinstance(self.told, dict) else self.told
        p_a, reason = None, ""
        if isinstance(told, float):
            p_a, told = told, "a" if told > 0.5 else "b" if told < 0.5 else "tie"
        if told not in ("a", "b", "tie", "both_bad"):
            told, reason = "abstain", told
        return Verdict(
            prompt_id=group.prompt.prompt_id,
            a=a,
            b=b,
            outcome=told,
            p_a=p_a,
            judge_id=self.judge_id,
            source=self.source,
            reason=reason,
        )
