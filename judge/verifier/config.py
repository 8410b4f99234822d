"""Settings of a verifier: what an answer is checked against, and how."""

from typing import Any, Literal

from judge.backend_config import Backend
from rollout.types import setting


class VerifierBackend(Backend):
    """Scores an answer 1 where it is right and 0 where it is wrong, against a column of the prompt's metadata."""

    kind: Literal["verifier"] = setting("verifier", change="per_round", doc="checks answers that are right or wrong")
    check: Literal["exact", "numeric", "regex", "json_schema", "unit_tests"] = setting(
        change="per_round", doc="exact, numeric, regex, json_schema, or unit_tests run in a sandbox"
    )
    column: str = setting("reference", change="per_round", doc="metadata column that holds what is expected")
    extract: str | None = setting(
        None, change="per_round", doc="regular expression whose first group is the answer; none: the whole text"
    )
    expected: Any = setting(None, change="per_round", doc="expected for every prompt, in place of a column")
    tolerance: float = setting(
        1e-6, change="per_round", ge=0.0, allow_inf_nan=False, doc="relative and absolute, for check: numeric"
    )
    timeout_s: float = setting(
        10.0, change="operational", gt=0.0, allow_inf_nan=False, doc="seconds that one answer's check may take"
    )
    memory_mib: int = setting(256, change="operational", ge=16, doc="address space of a sandboxed test process")
    concurrency: int = setting(2, change="operational", ge=1, doc="sandboxed processes at a time")
