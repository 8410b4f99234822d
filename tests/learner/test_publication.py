"""A published policy loads as any other, and says how much of the update it carries."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from learner.adaptive import ObjectiveState
from learner.model import check_head, load_model
from learner.publication import Rounding, publish_policy, stochastic_bfloat16
from learner.state_writing import save_state
from rollout.errors import UsageError
from rollout.shards import hash_file, hash_policy
from tests.support.tiny_policy import make_tiny_policy

CPU = torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def base(tmp_path, request):
    return make_tiny_policy(tmp_path / "policies/v0000", tie=request.param)


def moved(base, by, seed=1):
    """The base's masters, every element moved by about `by`."""
    model = load_model(base, device=CPU)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn_like(parameter).sign())
    return model


def publish(model, base, *, version=1, state_before=None, **rounding):
    return publish_policy(
        model,
        run_dir=base.parents[1],
        source=base,
        state_before=state_before,
        version=version,
        rounding=Rounding(**{"dtype": torch.float32, **rounding}),
    )


def to_bfloat16(base):
    load_model(base, device=CPU, dtype=torch.bfloat16).save_pretrained(base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_folder_loads_with_the_rounded_weights_and_the_tokenizer(base, dtype):
    model = moved(base, 0.01)
    published = publish(model, base, dtype=dtype)
    folder = base.parents[1] / published.policy.path
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.dtype == dtype
    for (name, got), master in zip(loaded.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(got, master.to(dtype)), name
    tokenizers = [AutoTokenizer.from_pretrained(path) for path in (base, folder)]
    assert tokenizers[0].chat_template == tokenizers[1].chat_template
    assert hash_file(folder / "generation_config.json") == hash_file(base / "generation_config.json")
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    assert published.policy.sha256 == hash_policy(folder)
    assert published.policy.path == "policies/v0001"


def test_publishing_twice_gives_the_same_bytes(base):
    model = moved(base, 0.01)
    hashes = []
    for _ in range(2):
        published = publish(model, base, dtype=torch.bfloat16, mode="stochastic", seed=5)
        hashes.append({p.name: hash_file(p) for p in (base.parents[1] / published.policy.path).iterdir()})
    assert hashes[0] == hashes[1]
    assert {path.name for path in base.parent.iterdir()} == {"v0000", "v0001"}


def test_float32_carries_the_whole_update(base):
    published = publish(moved(base, 1e-4), base)
    assert published.share == pytest.approx(1.0, abs=1e-9)
    assert published.elements == pytest.approx(1.0)


def test_nearest_bfloat16_eats_small_updates_and_stochastic_rounding_carries_them(base):
    to_bfloat16(base)
    model = moved(base, 2e-5)
    nearest = publish(model, base, dtype=torch.bfloat16)
    stochastic = publish(model, base, dtype=torch.bfloat16, mode="stochastic")
    assert nearest.share < 0.3
    assert nearest.elements < 0.1
    assert stochastic.share == pytest.approx(1.0, abs=0.25)


def test_a_later_update_is_measured_from_the_masters_before_it(base):
    """By hand: the published weights still stand at the base, the masters at 1 above it; the masters move by 2 more,
    and publication catches up by 3. So <3, 2> / |2|^2 = 1.5 of the update is published."""
    model, state = load_model(base, device=CPU), base.parents[1] / "learner/0000"
    parameters = dict(model.named_parameters())

    def rise(by):
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.add_(by)

    rise(1.0)
    optimizer = torch.optim.AdamW(parameters.values())
    save_state(
        state,
        version=1,
        num_steps=1,
        parameters=parameters,
        optimizer=optimizer,
        random_states={},
        objective=ObjectiveState(),
    )
    rise(2.0)
    assert publish(model, base, version=2, state_before=state).share == pytest.approx(1.5, abs=1e-6)


def test_an_update_of_nothing_is_published_whole(base):
    published = publish(load_model(base, device=CPU), base)
    assert (published.share, published.elements) == (1.0, 0.0)


def test_stochastic_rounding_keeps_the_mean_and_the_representable():
    generator = torch.Generator().manual_seed(0)
    step = 2.0**-7  # bfloat16's spacing at 1
    for value, expected_up in ((1 + step / 4, 0.25), (-1 - 3 * step / 4, 0.75)):
        rounded = stochastic_bfloat16(torch.full((100_000,), value), generator).float()
        up = (rounded.abs() > 1).float().mean().item()
        assert up == pytest.approx(expected_up, abs=0.01)
        assert set(rounded.abs().tolist()) == {1.0, 1 + step}
    exact = torch.randn(1000).bfloat16()
    assert torch.equal(stochastic_bfloat16(exact.float(), generator), exact)


def test_stochastic_rounding_to_float16_is_refused(base):
    with pytest.raises(UsageError, match="stochastic gives bfloat16"):
        publish(load_model(base, device=CPU), base, dtype=torch.float16, mode="stochastic")


def test_a_model_that_changes_its_logits_after_the_head_is_refused(base):
    model = load_model(base, device=CPU)
    check_head(model)
    plain = model.forward

    def scaled(*args, **kwargs):
        output = plain(*args, **kwargs)
        output.logits = output.logits / 2
        return output

    model.forward = scaled
    with pytest.raises(UsageError, match="changes its logits"):
        check_head(model)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is no causal language model"):
        load_model(tmp_path, device=CPU)
