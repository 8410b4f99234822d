"""How the configured judge is made. Each kind is imported only when it is asked for."""

from dataclasses import replace

from judge.backend_config import Backend, FunctionBackend, PluginBackend
from judge.config import CascadeBackend, EnsembleBackend, HumanBackend, Judging
from judge.llm.config import LlmBackend
from judge.protocol import Context, Judge
from judge.reward.config import PreferenceModelBackend, RewardModelBackend
from judge.verifier.config import VerifierBackend


def build(config: Backend, context: Context) -> Judge:
    """The configured judge, with its fallback where it has one; not started yet.

    Raises UsageError if it cannot work as configured.
    """
    judge = _build(config, context)
    if isinstance(config, Judging) and config.fallback is not None:
        from judge.combined.fallback import with_fallback

        judge = with_fallback(judge, _build(config.fallback, replace(context, name=f"{context.name}/fallback")))
    return judge


def _build(config: Backend, context: Context) -> Judge:
    judge: Judge
    match config:
        case FunctionBackend() | PluginBackend():
            from judge.function import build_function

            judge = build_function(config)
        case LlmBackend():
            from judge.llm.judge import build_llm

            judge = build_llm(config, context)
        case RewardModelBackend():
            from judge.reward.judge import build_reward_model

            judge = build_reward_model(config)
        case PreferenceModelBackend():
            from judge.reward.preference import build_preference_model

            judge = build_preference_model(config)
        case VerifierBackend():
            from judge.verifier.judge import build_verifier

            judge = build_verifier(config)
        case HumanBackend():
            from judge.human.judge import build_human

            rank = _build(config.rank_by, replace(context, name=f"{context.name}/rank")) if config.rank_by else None
            judge = build_human(config, context, rank)
        case EnsembleBackend():
            from judge.combined.ensemble import build_ensemble

            judge = build_ensemble(config, _members(config.judges, context))
        case CascadeBackend():
            from judge.combined.cascade import build_cascade

            judge = build_cascade(config, _members(config.judges, context))
        case _:
            raise AssertionError(f"no judge is made of {type(config).__name__}")
    return judge


def _members(configs: tuple[Backend, ...], context: Context) -> list[Judge]:
    return [_build(each, replace(context, name=f"{context.name}/{place}")) for place, each in enumerate(configs)]
