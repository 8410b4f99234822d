"""The books of a finished run: every prompt once, every pair once, steps that follow from the pairs."""

import math
from collections import Counter
from pathlib import Path

from judge.shards import read_pairs
from orchestrator.journal import Journal
from orchestrator.status import open_journal


def check_accounts(root: Path) -> Journal:
    """Raise AssertionError unless the run in `root` accounts for everything that it drew."""
    journal = open_journal(root)
    config = journal.run.config
    records = journal.records()
    assert [record.round_id for record in records] == list(range(config.num_rounds))
    pair_ids: list[str] = []
    for record in records:
        assert record.stage == "done"
        drawn = journal.drawn(record.round_id)
        assert len(set(drawn)) == len(drawn) == record.num_prompts
        accounted: list[str] = []
        for shard in record.shards or ():
            pairs = read_pairs(journal.run.root, shard)
            assert len(pairs) == shard.num_pairs + shard.num_unpaired
            pair_ids += [pair.pair_id for pair in pairs]
            accounted += sorted({pair.prompt_id for pair in pairs})
            accounted += [prompt_id for ids in shard.rejected.values() for prompt_id in ids]
        assert sorted(accounted) == sorted(drawn), f"round {record.round_id} does not account for its prompts"
        assert record.update is not None
        steps = config.learner.num_epochs * math.ceil(record.update.num_pairs / config.learner.batch_pairs)
        assert record.update.num_steps == steps
        untrained = Counter(record.all_rejected) - Counter(record.num_rejected)
        if not config.learner.one_sided:
            assert untrained["pair_unpaired"] == record.num_unpaired
        assert record.update.num_pairs == record.num_pairs + record.num_unpaired - untrained.total()
    assert len(set(pair_ids)) == len(pair_ids)
    return journal
