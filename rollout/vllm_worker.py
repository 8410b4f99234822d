"""What Rondo adds to vLLM's worker, in whichever process that runs: new weights in place."""

from typing import Any

from rollout.weight_source import WeightSource


class PolicyLoading:
    """Mixed into vLLM's worker class (`worker_extension_cls`); its methods are reached through collective_rpc."""

    model_runner: Any

    def load_policy(self, weights: WeightSource) -> None:
        """Replace all weights by these. If it raises, what is in place is a mixture and must not be used."""
        # Through getattr: the worker's own method, which a declaration here would hide from vLLM's check for clashes.
        getattr(self, "reload_weights")(weights_iterator=weights.tensors())  # noqa: B009
        for module in self.model_runner.get_model().modules():
            _pack_again(module)

    def use_adapter(self, adapter: Any | None) -> None:
        """Let the requests that this worker knows go on under an adapter, or without one.

        vLLM binds each request to the adapter that it began with. Runners that keep no requests are told anew by the
        scheduler, whose requests the engine changes.
        """
        for request in getattr(self.model_runner, "requests", {}).values():
            request.lora_request = adapter


def _pack_again(module: Any) -> None:
    """Renew the packed copy that the CPU's matrix product of an output layer reads.

    vLLM packs a layer when its own weights arrive; those of a tied output layer arrive at the embedding instead, and
    the copy would stay that of the old policy.
    """
    if hasattr(module, "cpu_linear") and hasattr(module, "org_vocab_size"):
        module.quant_method.process_weights_after_loading(module)
