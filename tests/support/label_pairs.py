"""Pairs for the labelling page: short, long, code, table, formulas, conversations, and hostile ones."""

from judge.human.types import NewTask

CODE = '''Here is a function that does it in one pass:

```python
from collections import Counter


def most_common(words: list[str], n: int = 3) -> list[tuple[str, int]]:
    """The n most frequent words, ties in order of appearance."""
    counts = Counter(word.lower() for word in words if word.isalpha())
    return counts.most_common(n)  # O(len(words)) for counting, then a heap of n that never has to sort all of them
```

It takes `O(n)` time. Call it like this:

```bash
$ python -c "import words; print(words.most_common('a b a'.split()))"
```
'''
CODE_PLAIN = """You can sort the words and count runs:

```python
def most_common(words, n=3):
    counts = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return sorted(counts.items(), key=lambda item: -item[1])[:n]
```

Note that this counts punctuation as a word of its own.
"""
TABLE = """## Three ways to get there

| Way | Hours | Price | Changes | Remarks |
|:----|------:|------:|:-------:|:--------|
| Train | 5.5 | 89.00 | 1 | Runs every two hours; the seat costs extra |
| Coach | 8 | 24.90 | 0 | Overnight, too |
| Car | 6 | 71.30 | – | Tolls and parking come on top of that |

> Prices change by the day.

1. Decide how much your time is worth.
2. Book the train **three weeks** ahead:
   - on weekdays before 9,
   - or on Saturday evenings.
3. ~~Take the plane.~~
"""
FORMULA = r"""### Solution

The roots of $ax^2 + bx + c = 0$ follow by completing the square:

$$x_{1,2} = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}$$

For \(a = 1\), \(b = -3\), \(c = 2\) the discriminant is

\[
\Delta = 9 - 8
= 1
\]

so that $x_1 = 2$ and $x_2 = 1$. In general

\begin{align}
\sum_{k=1}^{n} k &= \frac{n(n+1)}{2} \\
\int_0^\infty e^{-x^2}\,dx &= \frac{\sqrt{\pi}}{2}
\end{align}

It costs $5 to check and $10 to be sure.
"""
FORMULA_PLAIN = (
    "Use the quadratic formula: x = (-b ± √(b² − 4ac)) / 2a. With a = 1, b = −3, c = 2 you get x = 2 or x = 1."
)
_PARAGRAPH = (
    "The river had been rising since the morning, and by noon the lower meadow was a lake on which the gulls sat as "
    "if they had never known another. Nobody spoke of the bridge. It stood where it had always stood, grey and a "
    "little crooked, and those who had to cross it did so without looking down. "
)
LONG = "\n\n".join(f"**{i}.** {_PARAGRAPH * 2}" for i in range(1, 13))
LONG_OTHER = LONG.replace("grey", "brown").replace("gulls", "ducks").replace("without looking down", "in a hurry")
SHORT = "Paris."
SHORT_OTHER = "The capital of France is **Paris**, on the river Seine."
RIGHT_TO_LEFT = "עיר הבירה של צרפת היא **פריז**.\n\nوعاصمة إسبانيا هي مدريد."
HOSTILE = """<script>window.pwned = 1</script><img src="http://remote.invalid/x.png" onerror="window.pwned = 2">

[click](javascript:window.pwned=3) <a href="data:text/html,<script>alert(1)</script>">x</a> ![pixel](http://remote.invalid/p.gif)

<style>body{display:none}</style><iframe src="http://remote.invalid/"></iframe> <svg/onload=window.pwned=4>

[sign out](/sign-out) <form action="/sign-out" method="post"><input type=submit></form> http://remote.invalid/auto

$\\href{javascript:window.pwned=5}{x}$ and `</code><script>window.pwned = 6</script>`

```html
</code></pre><script>window.pwned = 7</script>
```
right-to-left \u202egnp.exe\u202c, zero\u200bwidth, NUL \x00, surrogate \ud800, '); DROP TABLE labels; --
"""


def _task(index: int, question: str, left: str, right: str, **more: object) -> NewTask:
    messages = more.pop("messages", ({"role": "user", "content": question},))
    return NewTask(
        key=f"pair-{index:04d}", prompt_id=f"prompt-{index}", a=2 * index, b=2 * index + 1, messages=messages,
        text_a=left, text_b=right, priority=float(-index), origin="run/rounds/0007/groups", **more,
    )  # fmt: skip


CONVERSATION = (
    {"role": "system", "content": "You are a patient tutor. Answer in *one* paragraph."},
    {"role": "user", "content": "What is the capital of Australia? I always thought it was Sydney."},
    {"role": "assistant", "content": "It is **Canberra**; Sydney is the largest city."},
    {"role": "user", "content": "And of France?"},
)


def many_tasks(num: int = 30) -> list[NewTask]:
    """Pairs of every kind, in a fixed order; the highest priority first."""
    kinds = (
        ("What is the capital of France?", SHORT, SHORT_OTHER, {"messages": CONVERSATION}),
        ("Write a Python function that finds the most common words in a list.", CODE, CODE_PLAIN, {}),
        ("How do I get from Hamburg to Munich?", TABLE, "Take the train.", {}),
        ("Solve $x^2 - 3x + 2 = 0$ and explain the formula.", FORMULA, FORMULA_PLAIN, {}),
        ("Continue the story in which a bridge plays a part, in about two thousand words.", LONG, LONG_OTHER, {}),
        ("What are the capitals of France and Spain, in Hebrew and Arabic?", RIGHT_TO_LEFT, SHORT, {}),
        ("Say something dangerous.", HOSTILE, "", {}),
    )
    return [_task(i, *kinds[i % len(kinds)][:3], **kinds[i % len(kinds)][3]) for i in range(num)]
