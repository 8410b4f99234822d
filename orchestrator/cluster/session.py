"""The Ray that a run works on: the cluster that it was pointed at, or a local one of its own."""

import logging
import os
from typing import Any

import ray

from orchestrator.config import ClusterConfig
from rollout.errors import InfraError
from rollout.shards import attempt_environment


def start_ray(config: ClusterConfig, *, json_logs: bool = False) -> None:
    """Join the cluster that this process was pointed at (a Ray job, RAY_ADDRESS), or start a local one of its own.

    Raises InfraError where there is none to join, or none comes up.
    json_logs: actors log to Ray's log folder as JSON, with the ids of job, node, worker and actor.
    """
    if ray.is_initialized():
        return
    # Our own progress and errors are what a person should see; workers' logs are in Ray's log folder.
    common: dict[str, Any] = {"log_to_driver": bool(os.environ.get("RONDO_LOG_TO_DRIVER")), "logging_level": "ERROR"}
    logging.getLogger("ray").setLevel(logging.ERROR)
    common["runtime_env"] = {"env_vars": attempt_environment()}
    if json_logs:
        common["logging_config"] = ray.LoggingConfig(encoding="JSON", log_level="WARNING")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(address="auto", **common) if address else _start_local(config, common)
    except Exception as error:  # Ray has no class of its own for a cluster that does not come up, or does not answer
        reason = str(error).partition("\n")[0] or type(error).__name__
        where = f"at RAY_ADDRESS={address}" if address else "on this machine, which may be overloaded"
        raise InfraError(f"Ray did not start {where}: {reason} Run the same command again, it resumes") from error
    logging.getLogger("ray").setLevel(logging.ERROR)  # a logging_config has a level of its own for the driver, too


def _start_local(config: ClusterConfig, common: dict[str, Any]) -> None:
    ray.init(
        address="local",  # never one that happens to run, or ran, on this machine
        num_cpus=config.num_cpus,
        object_store_memory=config.object_store_mib * 1024 * 1024,
        include_dashboard=config.dashboard,
        configure_logging=True,
        # Idle workers started ahead of time are of no use to actors with an environment of their own.
        _system_config={"prestart_worker_first_driver": False},
        **common,
    )


def cluster_resources() -> dict[str, float]:
    """CPUs and GPUs of the cluster, those in use too."""
    found = ray.cluster_resources()
    return {name: float(found.get(name, 0)) for name in ("CPU", "GPU")}


def stop_ray() -> None:
    """Leave the cluster; a local one ends with it."""
    ray.shutdown()
