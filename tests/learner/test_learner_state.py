"""The learner's state comes back bit for bit, or not at all."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from learner.adaptive import ObjectiveState
from learner.state import (
    AdapterShape,
    load_state,
    random_states,
    read_state_manifest,
    saved_masters,
    saved_reference,
    set_random_states,
    state_folder,
)
from learner.state_writing import save_state
from rollout.errors import IntegrityError
from rollout.shards import hash_file

OBJECTIVE = ObjectiveState(beta_scale=1.1, reward_sum=0.1 + 0.2, num_rewards=7, margin_mean=1 / 3, margin_spread=2.0)
SHAPE = AdapterShape(base_sha256="b" * 64, rank=4, alpha=8, targets=("0",))
FILES = ["masters.safetensors", "moments.safetensors", "random.safetensors"]


class Learner:
    """Of all weights, or of the first layer alone, as if that were the adapter of `shape`."""

    shape = None

    def __init__(self, seed, width=3):
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 1))
        torch.manual_seed(seed)
        self.model[0].reset_parameters()
        names = dict(self.model.named_parameters())
        self.parameters = {name: p for name, p in names.items() if self.shape is None or name.startswith("0.")}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=0.1, fused=True)

    def step(self):
        """A step whose input is random, so that the random state decides it, too."""
        self.optimizer.zero_grad()
        self.model(torch.randn(2, 4)).square().sum().backward()
        self.optimizer.step()

    def save(self, folder, reference=None):
        save_state(
            folder,
            version=2,
            num_steps=5,
            parameters=self.parameters,
            optimizer=self.optimizer,
            random_states=random_states(),
            objective=OBJECTIVE,
            reference=reference,
            adapter=self.shape,
        )

    def load(self, folder, version=2):
        filled = {"parameters": self.parameters, "optimizer": self.optimizer}
        return load_state(folder, version=version, **filled, adapter=self.shape)

    def values(self):
        return [p.detach().clone() for p in self.parameters.values()]


@pytest.fixture(params=[None, SHAPE], ids=["all weights", "adapter"])
def folder(tmp_path, request, monkeypatch):
    monkeypatch.setattr(Learner, "shape", request.param)
    return tmp_path / "learner/0001"


def test_the_next_step_after_a_resume_is_bit_identical(folder):
    learner = Learner(0)
    for _ in range(3):
        learner.step()
    learner.save(folder)
    learner.step()

    resumed = Learner(1)
    manifest, states = resumed.load(folder)
    set_random_states(states)
    resumed.step()
    assert (manifest.version, manifest.num_steps, manifest.objective) == (2, 5, OBJECTIVE)
    assert all(torch.equal(a, b) for a, b in zip(resumed.values(), learner.values(), strict=True))


@pytest.mark.parametrize("forgotten", ["moments", "random"])
def test_without_moments_or_random_states_it_would_not_be(folder, forgotten):
    learner = Learner(0)
    for _ in range(3):
        learner.step()
    learner.save(folder)
    learner.step()

    resumed = Learner(1)
    _, states = resumed.load(folder)
    if forgotten == "moments":
        resumed.optimizer.state.clear()
        set_random_states(states)
    resumed.step()
    assert not all(torch.equal(a, b) for a, b in zip(resumed.values(), learner.values(), strict=True))


def test_equal_states_are_equal_bytes_and_replace_what_a_crash_left(folder):
    learner = Learner(0)
    learner.step()
    hashes = []
    for _ in range(2):
        learner.save(folder)
        hashes.append([hash_file(path) for path in sorted(folder.iterdir())])
    assert hashes[0] == hashes[1]
    assert [path.name for path in folder.parent.iterdir()] == ["0001"]


@pytest.mark.parametrize("file", FILES)
def test_an_altered_or_missing_file_is_refused_by_name(folder, file):
    Learner(0).save(folder)
    data = bytearray((folder / file).read_bytes())
    data[-1] ^= 1
    (folder / file).write_bytes(data)
    with pytest.raises(IntegrityError, match=f"{file} was truncated, altered or removed"):
        Learner(0).load(folder)
    (folder / file).unlink()
    with pytest.raises(IntegrityError, match=file):
        Learner(0).load(folder)


def test_the_state_of_another_policy_or_model_is_refused(folder):
    Learner(0).save(folder)
    with pytest.raises(IntegrityError, match="state of policy 2, expected 3"):
        Learner(0).load(folder, version=3)
    with pytest.raises(IntegrityError, match="state of another model"):
        Learner(0, width=5).load(folder)
    with pytest.raises(IntegrityError, match=r"state\.json"):
        read_state_manifest(folder.with_name("0007"), version=8)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (None, "a LoRA adapter, expected one of all weights"),
        (replace(SHAPE, rank=8), "a LoRA adapter with rank 4, expected one of a LoRA adapter with rank 8"),
        (replace(SHAPE, base_sha256="c" * 64), f"base_sha256 {'b' * 64}, expected .* base_sha256 {'c' * 64}"),
        (replace(SHAPE, quantize="nf4"), "quantize None, expected .* quantize nf4"),
    ],
)
def test_the_state_of_another_adapter_is_refused_in_one_line(tmp_path, monkeypatch, other, said):
    folders = {None: tmp_path / "full", SHAPE: tmp_path / "adapter"}
    for shape, folder in folders.items():
        monkeypatch.setattr(Learner, "shape", shape)
        Learner(0).save(folder)
    monkeypatch.setattr(Learner, "shape", other)
    with pytest.raises(IntegrityError, match=said) as caught:
        Learner(0).load(folders[SHAPE])
    assert "\n" not in str(caught.value)
    if other is not None:
        with pytest.raises(IntegrityError, match="all weights, expected one of a LoRA adapter"):
            Learner(0).load(folders[None])


def test_masters_can_be_read_one_by_one(folder):
    learner = Learner(0)
    learner.save(folder)
    assert torch.equal(saved_masters(folder)["0.weight"], learner.parameters["0.weight"])


def test_the_base_has_no_state(tmp_path):
    assert state_folder(tmp_path, 0) is None
    assert state_folder(tmp_path, 3) == tmp_path / "learner/0002"


def test_a_state_from_before_objectives_had_a_memory_still_opens(folder):
    Learner(0).save(folder)
    manifest = json.loads((folder / "state.json").read_text())
    del manifest["objective"]
    if Learner.shape is None:
        del manifest["adapter"]
    (folder / "state.json").write_text(json.dumps(manifest))
    assert Learner(1).load(folder)[0].objective == ObjectiveState()


def test_a_reference_that_moved_is_part_of_the_state(folder):
    learner = Learner(0)
    moved = {name: 2 * p.detach() for name, p in learner.parameters.items()}
    learner.save(folder, reference=moved)
    loaded = saved_reference(folder, read_state_manifest(folder, version=2))
    assert {name: torch.equal(value, moved[name]) for name, value in loaded.items()} == dict.fromkeys(moved, True)
    (folder / "reference.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"reference\.safetensors was truncated, altered or removed"):
        read_state_manifest(folder, version=2)
