"""What can be refused about a judge before anything starts, without loading a model or reaching an endpoint."""

from judge.backend_config import Backend, FunctionBackend, PluginBackend
from judge.config import CascadeBackend, EnsembleBackend, HumanBackend, Judging
from judge.llm.config import LlmBackend
from judge.reward.config import PreferenceModelBackend, RewardModelBackend
from judge.target import check_target
from judge.verifier.config import VerifierBackend


def check_judge(config: Backend) -> None:
    """Raise UsageError, in one line, if the judge, a member of it, or its fallback cannot work as configured."""
    match config:
        case FunctionBackend() | PluginBackend():
            check_target(config)
        case LlmBackend():
            from judge.llm.check import check_llm

            check_llm(config)
        case RewardModelBackend() | PreferenceModelBackend():
            from judge.reward.check import check_model

            check_model(config)
        case VerifierBackend():
            from judge.verifier.check import check_verifier

            check_verifier(config)
        case HumanBackend():
            from judge.human.check import check_human

            check_human(config)
            if config.rank_by is not None:
                check_judge(config.rank_by)
        case EnsembleBackend() | CascadeBackend():
            for member in config.judges:
                check_judge(member)
    if isinstance(config, Judging) and config.fallback is not None:
        check_judge(config.fallback)
