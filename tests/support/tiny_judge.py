"""Prompts and judges for tiny runs."""


def prompts():
    return [{"prompt": f"question {n} about things", "number": n} for n in range(12)]


def held_out():
    return [{"prompt": f"held out question {n}"} for n in range(4)]


def score(prompts, completions, **columns):
    """Likes the letter e; untrained policies write noise, so nearly any measure separates their answers."""
    return [float(answer[0]["content"].count("e") - 0.01 * len(answer[0]["content"])) for answer in completions]


def verified(prompts, completions, **columns):
    """1 for an answer with many letters e, 0 for one with few, and no answer where there are some."""
    nums = [answer[0]["content"].count("e") for answer in completions]
    return [None if num == 1 else float(num > 1) for num in nums]


def always_tied(prompts, completions, **columns):
    return [1.0 for _ in completions]


def sometimes_tied(prompts, completions, number, **columns):
    return [1.0 if number[0] % 2 else value for value in score(prompts, completions)]


def raises(prompts, completions, **columns):
    raise RuntimeError("the judge is out to lunch")


def dislikes(prompts, completions, **columns):
    """The gold judge who likes the opposite of what `score` likes."""
    return [-value for value in score(prompts, completions)]


def known_pairs():
    """Canaries that `score` orders rightly, but for every fourth."""
    sides = [("xxxx", "eeee") if n % 4 == 0 else ("eeee", "xxxx") for n in range(12)]
    return [{"prompt": f"canary {n}", "chosen": a, "rejected": b} for n, (a, b) in enumerate(sides)]
