"""A crowd on the labelling page while its server is killed: nothing lost, nothing double, every quorum exact.

`rondo bench label` does the same with 200 annotators and 20,000 pairs, and measures.
"""

import pytest

from orchestrator.bench_label import Load, run_load
from tests.support.postgres import postgres_bin, running_postgres

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

LOAD = Load(num_pairs=1_200, num_annotators=40, num_kills=3, dwell_s=0.4)


def check(found):
    assert found.num_kills == 3
    assert found.num_settled == found.num_pairs == LOAD.num_pairs
    assert (found.num_lost, found.num_double, found.num_off_quorum) == (0, 0, 0)
    assert found.num_labels > LOAD.num_pairs, "a tenth of the pairs is labelled twice"
    seen = found.statuses
    assert seen["connection lost"] > 0, "the server was never away"
    assert seen["vanished"] > 10
    assert seen["replay 200"] > 10, "the same label again is answered as before"
    assert seen["race 200 409"] > 0, "one of two labels for one pair wins"
    assert not [status for status in seen if status.startswith("race") and status.count("200") == 2]
    assert not [status for status in seen if " 5" in status], seen


def test_on_sqlite():
    check(run_load(None, LOAD))


@pytest.mark.skipif(postgres_bin() is None, reason="PostgreSQL is not installed")
def test_on_postgresql():
    with running_postgres() as server:
        check(run_load(server.database(), LOAD))
