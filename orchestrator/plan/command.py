"""`rondo plan`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.printing import print_json, standard_output


def plan(
    config: Annotated[Path, typer.Argument(help="YAML file; configs/ holds examples.", show_default=False)],
    hardware: Annotated[str, typer.Option(help="NODESxGPUSxNAME such as 2x8xH200, or cpu.", show_default=False)],
    profile: Annotated[
        Path | None, typer.Option(help="What `rondo bench plan --json` printed on such a machine.", show_default=False)
    ] = None,
    prompt_tokens: Annotated[float | None, typer.Option(help="Mean of the prompts.", show_default="measured")] = None,
    answer_tokens: Annotated[
        float | None, typer.Option(help="Mean of the answers.", show_default="rollout.max_new_tokens")
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(help="Of all of the hardware together.", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="a.b=value, may be repeated.", show_default=False)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output, nothing else there.")
    ] = False,
) -> None:
    """Placement, memory, seconds a round and the bottleneck, before any GPU is rented."""
    from orchestrator.config import load_config
    from orchestrator.plan.page import plan_page

    found = make_plan(
        load_config(config, overrides),
        hardware,
        profile=profile,
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        price_per_hour=price_per_hour,
    )
    print_json(found) if as_json else standard_output().print(plan_page(found))


def make_plan(
    config: Any,
    hardware: str,
    *,
    profile: Path | None = None,
    prompt_tokens: float | None = None,
    answer_tokens: float | None = None,
    price_per_hour: float | None = None,
) -> dict[str, Any]:
    """The object that `rondo plan --json` prints. Raises UsageError."""
    from orchestrator.plan.hardware import parse_hardware
    from orchestrator.plan.model_shape import policy_shape
    from orchestrator.plan.page import plan_object, stated_shares
    from orchestrator.plan.predict import predict, what_helps
    from orchestrator.plan.rates import parse_profile
    from orchestrator.plan.workload import ASSUMED_PROMPT_TOKENS, measured_prompt_tokens, num_held_out, workload
    from rollout.errors import UsageError

    machine = parse_hardware(hardware)
    if (machine.accelerator is None) == (profile is None):
        raise UsageError("give --profile with --hardware cpu, and with nothing else; accelerators have data sheets")
    shape = policy_shape(config.policy)
    measured = None
    if profile is not None:
        try:
            measured = parse_profile(json.loads(profile.read_text(encoding="utf-8")), origin=str(profile))
        except (OSError, ValueError) as error:
            raise UsageError(f"--profile {profile} cannot be read: {error}") from error
    assumptions = [stated_shares()] if measured is None else []
    if prompt_tokens is None:
        prompt_tokens = measured.prompt_tokens if measured else measured_prompt_tokens(config)
    if prompt_tokens is None:
        prompt_tokens = ASSUMED_PROMPT_TOKENS
        assumptions.append(f"prompts have {prompt_tokens:.0f} tokens on average; say better with --prompt-tokens")
    if answer_tokens is None:
        answer_tokens = config.rollout.max_new_tokens * (measured.answer_share if measured else 1.0)
        assumptions.append(f"answers have {answer_tokens:.0f} tokens on average; say better with --answer-tokens")
    work = workload(config, num_held_out=num_held_out(config), prompt_tokens=prompt_tokens, answer_tokens=answer_tokens)
    rates = measured.rates if measured else None
    found = predict(shape, config, work, machine, rates)
    if found.seconds.judge is None:
        assumptions.append("the judge takes no time of its own; `rondo judge audit` says what it does take")
    return plan_object(
        shape=shape,
        config=config,
        work=work,
        hardware=machine,
        found=found,
        helps=what_helps(shape, config, work, machine, found) if measured is None else [],
        assumptions=assumptions,
        price_per_hour=price_per_hour,
    )
