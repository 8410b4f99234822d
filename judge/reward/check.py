"""What can be refused about a reward or preference model from its files, before anything starts."""

from pathlib import Path

from judge.reward.config import RewardModelBackend
from judge.reward.source import ModelBackend, check_folder, find_folder, tokenizer_of
from rollout.errors import UsageError

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "spm.model")


def check_model(config: ModelBackend) -> None:
    """Raise UsageError, in one line, for a model that is not there, has no tokenizer, or has the wrong head.

    Loads no weights. A server's model is looked at only where it is a folder here, too; its tokenizer always.
    """
    endpoint = config.endpoint if isinstance(config, RewardModelBackend) else None
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise UsageError(f"judge.endpoint is {endpoint!r}, expected a URL such as http://127.0.0.1:8000")
    folder = find_folder(tokenizer_of(config), weights=False)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise UsageError(
            f"{folder} has no tokenizer (none of {', '.join(_TOKENIZER_FILES)}); copy the tokenizer's files there, "
            "or name another folder as judge.tokenizer"
        )
    if endpoint is None or Path(config.model).is_dir():
        check_folder(find_folder(config.model, weights=False), config)
