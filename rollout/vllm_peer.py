"""What `rondo bench rollout` holds us against: vLLM's own LLM.generate in a process of its own.

    python -m rollout.vllm_peer REQUEST.json

REQUEST holds model, dtype, prompts (token ids), engine and sampling arguments. One line `ready`; then for every line
read on standard input the prompts are generated once, and {"num_tokens", "seconds"} is printed as one line.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def serve(request: dict[str, Any]) -> None:
    """Load the model, then generate once for each line of standard input."""
    from rollout.vllm_engine import VllmEngine

    VllmEngine.warm()  # the same environment: in process, which is the faster way to run LLM.generate, too
    from vllm import LLM, SamplingParams

    llm = LLM(model=request["model"], dtype=request["dtype"], disable_log_stats=True, **request["engine"])
    sampling = SamplingParams(**request["sampling"])
    prompts = [{"prompt_token_ids": ids} for ids in request["prompts"]]
    _answer("ready")
    for _ in sys.stdin:
        llm.reset_prefix_cache()
        started = time.perf_counter()
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - started
        num_tokens = sum(len(answer.token_ids) for output in outputs for answer in output.outputs)
        _answer({"num_tokens": num_tokens, "seconds": seconds})


def _answer(value: Any) -> None:
    # vLLM prints on standard output, too: our lines have a mark.
    sys.stdout.write(f"\n@{json.dumps(value)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve(json.loads(Path(sys.argv[1]).read_text()))
