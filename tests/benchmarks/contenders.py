"""What is measured: each function prepares one contender and returns a function that does the work once."""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from gptoss_lib.attention import sink_attention, sink_attention_reference
from gptoss_lib.cache import KVCache
from gptoss_lib.config import GPTOSSConfig
from gptoss_lib.data import Batches, TokenData, story_data, validation_batches
from gptoss_lib.generation import generate
from gptoss_lib.gpt2 import GPT2, GPT2Config
from gptoss_lib.model import GPTOSS, CompiledDecoder
from gptoss_lib.pretraining import gptoss_loss
from gptoss_lib.training import Trainer, TrainingConfig, learning_rate_at, parameter_groups

PROMPT, NEW = 64, 128  # tokens in decoding
SHAPES = {  # config, batch size, tokens in a sequence
    "S": (replace(GPTOSSConfig.preset("s"), num_local_experts=4), 16, 256),
    "C": (GPTOSSConfig.preset("compact"), 2, 256),
}


def _standard(config: GPTOSSConfig) -> GPTOSSConfig:
    """Return the config with all biases, which transformers' model always has."""
    return replace(config, attention_bias=True, attention_out_bias=True, router_bias=True, expert_bias=True)


def _transformers(config: GPTOSSConfig) -> nn.Module:
    from transformers import GptOssConfig, GptOssForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        _standard(config).to_json(folder)
        return GptOssForCausalLM(GptOssConfig.from_pretrained(folder))


def _pair(config: GPTOSSConfig, who: str) -> nn.Module:
    """Return our model or transformers', with the same weights."""
    torch.manual_seed(0)
    ours = GPTOSS(_standard(config))
    if who != "transformers":
        return ours
    theirs = _transformers(config)
    theirs.load_state_dict(ours.state_dict())
    return theirs


def _gpt2(config: GPTOSSConfig, length: int) -> nn.Module:
    """Return a GPT-2 of the same depth and width whose body has as many parameters as ours has at work."""
    D, heads = config.hidden_size, config.num_attention_heads
    attention = D * config.head_dim * (2 * heads + 2 * config.num_key_value_heads)
    at_work = attention + 3 * D * config.intermediate_size * config.num_experts_per_tok
    return GPT2(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=length,
            n_embd=D,
            n_layer=config.num_hidden_layers,
            n_head=heads,
            n_inner=(at_work - 4 * D * D) // (2 * D),
        )
    )


def training_step(who: str, shape: str, precision: str, compiled: bool) -> Callable[[], None]:
    """One step: forward, backward, AdamW."""
    config, batch_size, length = SHAPES[shape]
    torch.manual_seed(0)
    model = _gpt2(config, length) if who == "gpt2" else _pair(config, who)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-4, fused=True)
    run = torch.compile(model) if compiled else model
    input_ids = torch.randint(config.vocab_size, (batch_size, length))
    labels = input_ids.roll(-1, dims=1)

    def loss() -> torch.Tensor:
        if who == "transformers":
            return run(input_ids=input_ids, labels=input_ids, use_cache=False).loss
        if who == "gpt2":
            return F.cross_entropy(run(input_ids).float().flatten(0, 1), labels.flatten())
        return run(input_ids, labels=labels)[0]

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _simple_loop(model: nn.Module, data: TokenData, training: TrainingConfig) -> None:
    """Train transformers' model as its own Trainer would, on the same batches, with the same checks."""
    optimizer = torch.optim.AdamW(parameter_groups(model, training.weight_decay), fused=True)
    batches = Batches(data.train, training.batch_size, training.seq_len, training.seed)
    for step in range(training.steps):
        input_ids, _ = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, training)
        loss = model(input_ids, labels=input_ids, use_cache=False, output_router_logits=True).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), training.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
    with torch.no_grad():
        for input_ids, labels in validation_batches(data.val, training.batch_size, training.seq_len):
            logits = model(input_ids, use_cache=False).logits
            F.cross_entropy(logits.flatten(0, 1), labels.flatten()).item()


def whole_run(who: str, steps: int = 20) -> Callable[[], None]:
    """A short run of shape S on stories, with router losses, clipping and validation; ours also saves."""
    config, batch_size, length = SHAPES["S"]
    data = story_data(stories=1_500)
    config = replace(config, vocab_size=data.tokenizer.vocab_size, router_aux_loss_coef=0.01)
    training = TrainingConfig(
        steps=steps, batch_size=batch_size, seq_len=length, warmup_steps=5, eval_every=0, checkpoint_every=0
    )

    fresh = _pair(config, who)

    def run() -> None:
        model = copy.deepcopy(fresh)
        if who == "transformers":
            _simple_loop(model, data, training)
        else:
            with tempfile.TemporaryDirectory() as folder:
                Trainer(model, data, training, folder, gptoss_loss(0.01)).train()

    return run


def decoding(
    who: str, precision: str, compiled: bool, prompt: int = PROMPT, new: int = NEW
) -> Callable[[], list]:
    """Write tokens after a prompt, greedily, with a cache; the tokens are returned."""
    config = SHAPES["C"][0]
    model = _pair(config, who).to(torch.bfloat16 if precision == "bf16" else torch.float32).eval()
    torch.manual_seed(1)
    input_ids = torch.randint(config.vocab_size, (1, prompt))
    dtype = next(model.parameters()).dtype
    if who == "transformers":
        settings = {"do_sample": False, "min_new_tokens": new, "max_new_tokens": new, "pad_token_id": 0}
        return lambda: model.generate(input_ids, **settings)[0].tolist()
    writer = CompiledDecoder(model) if compiled else model

    def write() -> list[int]:
        cache = KVCache.from_config(config, 1, prompt + new, dtype=dtype)
        return generate(writer, input_ids, new, temperature=0.0, cache=cache)[0].tolist()

    return write


def prefill(who: str, length: int = 4096) -> Callable[[], None]:
    """Read a long prompt into a cache and score the token that follows."""
    config = SHAPES["C"][0]
    model = _pair(config, who).eval()
    input_ids = torch.randint(config.vocab_size, (1, length))

    @torch.no_grad()
    def read() -> None:
        if who == "transformers":
            model(input_ids, use_cache=True, logits_to_keep=1)
        else:
            model(input_ids, cache=KVCache.from_config(config, 1, length), logits_to_keep=1)

    return read


def _attention_inputs(length: int) -> tuple[torch.Tensor, ...]:
    config = SHAPES["C"][0]
    heads, shared, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    torch.manual_seed(0)
    shapes = [(1, count, length, width) for count in (heads, shared, shared)]
    return *(torch.randn(shape, requires_grad=True) for shape in shapes), torch.randn(
        heads, requires_grad=True
    )


def attention(who: str, length: int = 2048, window: int | None = 128) -> Callable[[], None]:
    """Attention with sinks, forward and backward: ``fast``, ``masked`` (the reference), or ``sdpa``."""
    query, key, value, sinks = _attention_inputs(length)

    def run() -> None:
        if who == "fast":
            out = sink_attention(query, key, value, sinks, window)
        elif who == "masked":
            out = sink_attention_reference(query, key, value, sinks, window)
        else:
            out = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        out.sum().backward()

    return run


def memory_bandwidth(gigabytes: float, times: int = 10) -> Callable[[], None]:
    """Read so much from memory: one tensor, ten times."""
    numbers = torch.ones(int(gigabytes * 1e9 / 4 / times))

    def read() -> None:
        for _ in range(times):
            numbers.sum()

    return read


CONTENDERS = {
    function.__name__: function
    for function in (training_step, whole_run, decoding, prefill, attention, memory_bandwidth)
}
