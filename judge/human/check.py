"""What can be refused about people as a judge before anything starts."""

from judge.human.config import HumanSettings
from judge.human.database import Database
from judge.human.judge import read_guidelines


def check_human(config: HumanSettings) -> None:
    """Raise UsageError if the guidelines cannot be read, or the queue's database cannot be reached."""
    read_guidelines(config)
    if config.queue_url is not None:
        Database(config.queue_url).check()
