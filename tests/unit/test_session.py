"""A Ray that does not come up is a failure told in one line."""

import pytest
import ray

from orchestrator.cluster.session import start_ray
from orchestrator.config import ClusterConfig
from rollout.errors import InfraError


@pytest.mark.parametrize(
    ("address", "where"), [("", "on this machine"), ("10.0.0.1:6379", "RAY_ADDRESS=10.0.0.1:6379")]
)
def test_where_and_why_ray_did_not_start(monkeypatch, address, where):
    def fails(**kwargs):
        raise Exception("The current node timed out during startup.\nmore lines")

    monkeypatch.setattr(ray, "init", fails)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(
        InfraError, match=rf"Ray did not start .*{where}.*timed out during startup\. Run the same"
    ) as raised:
        start_ray(ClusterConfig())
    assert "more lines" not in str(raised.value)
