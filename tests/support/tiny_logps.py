"""Columns of pairs' log-probabilities, in float64, from a few numbers."""

import torch

from learner.losses.pair_logps import PairLogps


def pairs_of(chosen, rejected, ref_chosen=0.0, ref_rejected=0.0, *, grad=False, has_reference=True, **others):
    """One column a name, numbers or lists; lengths are 5 and 10 tokens, and all tokens shared, unless given.

    others: fields of PairLogps without their _B.
    """

    def column(value):
        return torch.atleast_1d(torch.tensor(value, dtype=torch.float64))

    policy = {"chosen_logp": chosen, "rejected_logp": rejected}
    columns = {name: column(value).requires_grad_(grad) for name, value in policy.items()}
    columns |= {"ref_chosen_logp": column(ref_chosen), "ref_rejected_logp": column(ref_rejected)}
    num = len(columns["chosen_logp"])
    columns |= {"num_chosen": column(5.0).expand(num), "num_rejected": column(10.0).expand(num)}
    for side in ("chosen", "rejected"):
        columns[f"{side}_shared_logp"] = columns[f"{side}_logp"]
        columns[f"ref_{side}_shared_logp"] = columns[f"ref_{side}_logp"]
        columns[f"sampled_{side}_logp"] = column(0.0).expand(num)
        columns[f"{side}_certainty"] = column(0.0).expand(num)
    columns["tied"] = torch.zeros(num, dtype=torch.bool)
    for name, value in others.items():
        given = torch.atleast_1d(torch.as_tensor(value))
        columns[name] = given.to(columns[name].dtype)
    expanded = {f"{name}_B": value.expand(num) for name, value in columns.items()}
    if grad:  # leaves, so that tests can read their gradients
        expanded |= {f"{name}_B": columns[name] for name in policy}
    return PairLogps(**expanded, has_reference=has_reference)
