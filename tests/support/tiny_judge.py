"""Prompts and judges for tiny runs."""


def prompts():
    return [{"prompt": f"question {n} about things", "number": n} for n in range(12)]


def held_out():
    return [{"prompt": f"held out question {n}"} for n in range(4)]


def score(prompts, completions, **columns):
    """Likes the letter e; untrained policies write noise, so nearly any measure separates their answers."""
    return [float(answer[0]["content"].count("e") - 0.01 * len(answer[0]["content"])) for answer in completions]


def always_tied(prompts, completions, **columns):
    return [1.0 for _ in completions]


def raises(prompts, completions, **columns):
    raise RuntimeError("the judge is out to lunch")
