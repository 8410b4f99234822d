"""A plan, against figures worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.bench_plan import prediction_rows
from orchestrator.placement import Share
from orchestrator.plan.command import make_plan
from orchestrator.plan.hardware import ACCELERATORS, Hardware, parse_hardware
from orchestrator.plan.measured import Measured, fit_profile
from orchestrator.plan.memory import activation_bytes, adapter_parameters, engine_memory, learner_memory
from orchestrator.plan.model_shape import ModelShape, parse_shape
from orchestrator.plan.page import plan_page
from orchestrator.plan.predict import bottleneck, place, predict, what_helps
from orchestrator.plan.rates import Profile, Rates, accelerator_rates, parse_profile
from orchestrator.plan.seconds import forward_pair_flops, generate_seconds, learn_seconds, stage_seconds, writing_bytes
from orchestrator.plan.workload import Workload
from rollout.errors import UsageError
from tests.support.tiny_config import tiny_config
from tests.support.tiny_policy import make_tiny_policy

# Llama 3 8B, as its config.json has it.
LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
# 10 layers of 100 x 100 weights, 4 of them attention's and 3 x 2 the feed-forward's, and a head of 1000 words.
SMALL = ModelShape(
    num_layers=10,
    hidden_size=100,
    intermediate_size=200,
    num_heads=1,
    num_kv_heads=1,
    head_size=100,
    vocabulary_size=1000,
    tied=True,
)
WORK = Workload(
    num_prompts=10,
    num_completions=4,
    prompt_tokens=50,
    answer_tokens=20,
    num_held_out=5,
    num_held_out_completions=1,
)
RATES = Rates(
    decode_step_s=0.5,
    answer_token_s=0.01,
    generate_flops=1e6,
    bandwidth=None,
    learn_step_s=2.0,
    learn_flops=1e6,
    score_flops=2e6,
    disk=1e6,
    learn_round_s=3.0,
)


def config(**changes):
    defaults = {"rollout__num_completions": 4, "prompts__num_per_round": 10, "learner__batch_pairs": 4}
    return tiny_config(Path("/no/policy"), **{**defaults, **changes})


def gpu_config(**changes):
    return config(policy__dtype="bfloat16", rollout__max_new_tokens=1000, **changes)


def test_parameters_are_those_of_the_published_model():
    shape = parse_shape(LLAMA_8B)
    assert shape.num_parameters == 8_030_261_248
    assert shape.head_size == 128
    assert shape.num_multiplied == 8_030_261_248 - 128256 * 4096 - 65 * 4096
    assert shape.cache_bytes(2) == 131_072


def test_the_tiny_policy_has_as_many_as_are_counted(tmp_path):
    from safetensors.numpy import load_file

    folder = make_tiny_policy(tmp_path)
    weights = load_file(folder / "model.safetensors")
    shape = parse_shape(json.loads((folder / "config.json").read_text()))
    assert shape.num_parameters == sum(weight.size for weight in weights.values())


def test_a_token_passes_some_experts_and_memory_holds_all():
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2}
    dense, sparse = parse_shape(LLAMA_8B), parse_shape({**LLAMA_8B, **experts})
    feed_forward = 3 * 4096 * 14336 * 32
    assert sparse.num_multiplied - dense.num_multiplied == feed_forward
    assert sparse.num_parameters - dense.num_parameters == 7 * feed_forward + 32 * 4096 * 8


@pytest.mark.parametrize(
    ("text", "nodes", "each", "name"),
    [("2x8xH200", 2, 8, "H200"), ("8xh100", 1, 8, "H100"), ("L40S", 1, 1, "L40S"), ("4xA100-80", 1, 4, "A100-80")],
)
def test_hardware_is_nodes_gpus_and_a_name(text, nodes, each, name):
    found = parse_hardware(text)
    assert (found.num_nodes, found.gpus_per_node, found.accelerator) == (nodes, each, ACCELERATORS[name])


@pytest.mark.parametrize("text", ["8xH900", "x8xH100", "0xH100", "2x2x2xH100", ""])
def test_hardware_that_is_not_known_is_refused_with_what_is(text):
    with pytest.raises(UsageError, match=r"--hardware .*: expected"):
        parse_hardware(text)


def test_a_learner_holds_sixteen_bytes_a_weight_and_what_a_pass_keeps():
    parts = learner_memory(SMALL, config())
    num = 10 * (4 * 100 * 100 + 3 * 100 * 200 + 200) + 1000 * 100 + 100
    assert SMALL.num_parameters == num
    assert (parts["weights"], parts["optimizer"], parts["gradients"]) == (4 * num, 8 * num, 4 * num)
    assert "reference" not in parts, "it is gone before there are gradients, which are as large"
    assert parts["activations"] == 2 * 10 * (400 + 400 + 800) * 16384


def test_ranks_share_what_is_held_and_checkpoints_keep_inputs_alone():
    parts = learner_memory(SMALL, config(learner__num_ranks=4, learner__activation_checkpointing="blocks"))
    assert parts["optimizer"] == 8 * SMALL.num_parameters / 4
    assert activation_bytes(SMALL, config(learner__activation_checkpointing="blocks").learner) == 2 * 16384 * (
        10 * 100 + 1600
    )


def test_an_adapter_is_what_is_trained():
    lora = config(learner__lora={"rank": 8}, policy__dtype="bfloat16")
    trained = 8 * 10 * (4 * 200 + 3 * 300)
    assert adapter_parameters(SMALL, 8) == trained
    parts = learner_memory(SMALL, lora)
    assert parts["weights"] == 2 * SMALL.num_parameters + 4 * trained
    assert writing_bytes(SMALL, lora) == 12 * trained + 2 * SMALL.num_parameters


def test_an_engines_cache_is_what_weights_leave_of_its_share():
    shape = parse_shape(LLAMA_8B)
    found = engine_memory(shape, gpu_config(), memory_bytes=80e9)
    assert found.parts["weights"] == 2 * shape.num_parameters
    assert found.parts["KV cache"] == pytest.approx(0.9 * 80e9 - 2 * shape.num_parameters - 3e9)
    assert found.num_cached == pytest.approx(found.parts["KV cache"] / 131_072)
    two = engine_memory(shape, gpu_config(rollout__tensor_parallel_size=2), memory_bytes=80e9)
    assert two.num_cached > 2 * found.num_cached, "half of the weights on each, and half of the heads"


def test_generating_is_steps_and_arithmetic():
    token = 2 * SMALL.num_multiplied + 4 * 10 * 100 * (50 + 10)
    prompt = 2 * SMALL.num_multiplied + 4 * 10 * 100 * 25
    found = generate_seconds(SMALL, config(), WORK, RATES, num_prompts=10, num_answers=40, num_cached=1e9)
    assert found == pytest.approx(20 * (0.5 + 40 * 0.01 + 40 * token / 1e6) + 10 * 50 * prompt / 1e6)
    halved = generate_seconds(
        SMALL, config(rollout__max_num_seqs=20), WORK, RATES, num_prompts=10, num_answers=40, num_cached=1e9
    )
    assert halved - found == pytest.approx(20 * 0.5)
    assert generate_seconds(
        SMALL, config(), WORK, RATES, num_prompts=10, num_answers=40, num_cached=70 * 20
    ) == pytest.approx(halved)
    assert generate_seconds(
        SMALL, config(rollout__num_engines=2), WORK, RATES, num_prompts=10, num_answers=40, num_cached=1e9
    ) == pytest.approx((found + 20 * 0.5) / 2)


def test_decoding_waits_for_weights_where_reading_them_takes_longer():
    slow = replace(RATES, bandwidth=1e5)
    found = generate_seconds(SMALL, config(), WORK, slow, num_prompts=1, num_answers=4, num_cached=1e9)
    read = SMALL.num_parameters * 4 + 4 * 60 * SMALL.cache_bytes(4)
    prompt = 50 * (2 * SMALL.num_multiplied + 4 * 10 * 100 * 25)
    assert found == pytest.approx(20 * (0.5 + 4 * 0.01 + read / 1e5) + prompt / 1e6)


def test_learning_is_three_forward_passes_of_a_prompt_and_two_answers():
    pair = (50 + 2 * 20) * (2 * SMALL.num_multiplied + 4 * 10 * 100 * 60)
    written = (12 + 4) * SMALL.num_parameters
    expected = 10 * 3 * pair / 1e6 + 3 * 2.0 + 10 * pair / 2e6 + written / 1e6 + 3.0
    assert learn_seconds(SMALL, config(), WORK, RATES) == pytest.approx(expected)
    no_reference = config(learner__loss="simpo", learner__reference="none")
    assert learn_seconds(SMALL, no_reference, WORK, RATES) == pytest.approx(expected - 10 * pair / 2e6)
    twice = config(learner__num_epochs=2, learner__activation_checkpointing="blocks")
    assert learn_seconds(SMALL, twice, WORK, RATES) == pytest.approx(
        2 * (10 * 4 * pair / 1e6 + 6.0) + 10 * pair / 2e6 + written / 1e6 + 3.0
    )


def test_a_round_is_a_sum_or_the_longer_half_of_it():
    found = stage_seconds(SMALL, config(), WORK, RATES)
    assert found.whole(overlaps=False) == pytest.approx(found.generate + found.learn + found.sync + found.evaluate)
    assert found.whole(overlaps=True) == pytest.approx(max(found.generate, found.learn) + found.sync + found.evaluate)
    assert stage_seconds(SMALL, config(), replace(WORK, num_held_out=0), RATES).evaluate == 0


def test_actors_fill_nodes_in_their_order():
    shares = (
        Share(name="learner", num=8, cpus=1, gpus=1),
        Share(name="engine", num=3, cpus=1, gpus=4),
        Share(name="judge", num=2, cpus=1, gpus=0),
    )
    learner, engine, judge = place(shares, parse_hardware("2x8xH100"))
    assert (learner.per_node, engine.per_node, judge.num_placed) == ((8, 0), (0, 2), 2)
    assert engine.num_placed == 2


def test_eight_billion_parameters_do_not_fit_on_one_gpu_and_it_says_what_helps():
    shape, machine = parse_shape(LLAMA_8B), parse_hardware("8xH100")
    work = Workload(
        num_prompts=1024,
        num_completions=4,
        prompt_tokens=256,
        answer_tokens=1000,
        num_held_out=200,
        num_held_out_completions=1,
    )
    run = gpu_config(prompts__num_per_round=1024, learner__batch_pairs=64)
    found = predict(shape, run, work, machine)
    assert found.num_gpus_used == 2
    assert any("the learner needs" in problem for problem in found.problems)
    helps = what_helps(shape, run, work, machine, found)
    assert helps
    assert "learner.num_ranks=4" in helps[0]["set"]
    assert helps == sorted(helps, key=lambda one: one["round_s"])
    # 4096 answers of 1000 tokens: the weights are read once for each step of 256 of them.
    steps_s = 16 * 1000 * (0.002 + 2 * shape.num_parameters / (0.7 * 3.35e12))
    assert found.seconds.generate > steps_s
    assert found.seconds.learn == pytest.approx(
        1024 * 2256 * (6 / 0.4 + 2 / 0.5) * shape.num_multiplied / 989e12 + 14 * shape.num_parameters / 2e9, rel=0.06
    )
    assert bottleneck(found, overlaps=False).startswith(("learn", "generate"))


def test_the_command_tells_all_of_it(tmp_path):
    run = config(policy__path=str(make_tiny_policy(tmp_path)), num_rounds=3, evaluation__num_prompts=4)
    found = make_plan(run, "2xH100", price_per_hour=36.0)
    assert found["fits"]
    assert found["num_gpus_used"] == 2
    assert found["cost"]["round"] == pytest.approx(found["seconds"]["round"] * 0.01)
    assert found["seconds"]["run"] == pytest.approx(3 * found["seconds"]["round"])
    assert 4 < found["workload"]["prompt_tokens"] < 60, "measured with the policy's own tokenizer"
    assert found["seconds"]["judge"] is None
    assert any("40%" in one for one in found["assumptions"]), "the utilisation is stated"
    json.dumps(found)
    plan_page(found)


def test_a_profile_takes_the_place_of_a_data_sheet(tmp_path):
    run = config(policy__path=str(make_tiny_policy(tmp_path)))
    profile = tmp_path / "profile.json"
    told = Profile(rates=RATES, prompt_tokens=12.0, answer_share=0.5).plain()
    profile.write_text(json.dumps({"bench": "plan", "profile": told}))
    found = make_plan(run, "cpu", profile=profile)
    assert found["workload"]["prompt_tokens"] == 12
    assert found["workload"]["answer_tokens"] == 4
    assert found["memory_bytes"] == {}
    assert parse_profile({"profile": told}, origin="x").rates == RATES
    with pytest.raises(UsageError, match="holds no profile"):
        parse_profile({"rows": []}, origin="x")
    with pytest.raises(UsageError, match="--profile"):
        make_plan(run, "cpu")
    with pytest.raises(UsageError, match="--profile"):
        make_plan(run, "H100", profile=profile)


def test_rates_of_an_accelerator_are_shares_of_its_data_sheet():
    rates = accelerator_rates(ACCELERATORS["H200"])
    assert rates.learn_flops == pytest.approx(0.4 * 989e12)
    assert rates.bandwidth == pytest.approx(0.7 * 4.8e12)
    assert Hardware(num_nodes=1, gpus_per_node=0, accelerator=None).name == "cpu"


def told(shape, work, changed, rates):
    """A run that took exactly what the rates say."""
    run = config(rollout__max_new_tokens=int(work.answer_tokens), **changed)
    found = stage_seconds(shape, run, work, rates)
    pair = forward_pair_flops(shape, work)
    num_steps = -(-work.num_pairs // run.learner.batch_pairs)
    answers = work.num_held_out_answers
    return Measured(
        shape=shape,
        config=run,
        work=work,
        stages={
            "generate": found.generate,
            "judge": rates.judge_answer_s * work.num_answers,
            "learn": found.learn,
            "sync": found.sync,
            "evaluate": found.evaluate,
        },
        step_s=rates.learn_step_s + 3 * pair * work.num_pairs / num_steps / rates.learn_flops,
        num_steps=num_steps,
        sampling_s=generate_seconds(shape, run, work, rates, num_prompts=answers, num_answers=answers, num_cached=1e9),
        round_s=(found.whole(overlaps=False),),
    )


def test_two_runs_tell_the_rates_that_predict_a_third():
    large = replace(SMALL, hidden_size=200, head_size=200, intermediate_size=500)
    middle = replace(SMALL, hidden_size=150, head_size=150, intermediate_size=300)
    rates = replace(RATES, evaluate_round_s=1.5, judge_answer_s=0.01)
    work = [
        replace(WORK, num_completions=4, num_prompts=num, answer_tokens=tokens, num_held_out=held)
        for num, tokens, held in ((10, 20, 12), (20, 30, 9), (14, 26, 7))
    ]
    runs = [
        told(shape, one, {"prompts__num_per_round": one.num_prompts}, rates)
        for shape, one in zip((SMALL, large, middle), work, strict=True)
    ]
    profile = fit_profile(runs[:2])
    rows = {row.name: row for row in prediction_rows(profile, runs[2])}
    assert rows["error of a round"].value < 0.03
    assert rows["generate, predicted"].ratio == pytest.approx(1, abs=0.05)
    assert rows["learn, predicted"].ratio == pytest.approx(1, abs=0.05)
    alone = {row.name: row for row in prediction_rows(fit_profile(runs[:1]), runs[0])}
    assert alone["error of a round"].value < 0.03, "of one run at least that run"
