"""TRL's trainers on token ids of ours, set as our learner is."""

from torch.utils.data import SequentialSampler

LIKE_OURS = {
    "lr_scheduler_type": "constant",
    "num_train_epochs": 1,
    "max_length": None,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
}


class FedTokens:
    """Before a trainer of TRL's: it takes token columns as they are, in order, and remembers each loss unrounded."""

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset

    def _get_train_sampler(self, *args, **kwargs):
        return SequentialSampler(self.train_dataset)

    def compute_loss(self, *args, **kwargs):
        result = super().compute_loss(*args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        self.losses = [*getattr(self, "losses", []), loss.item()]
        return result
