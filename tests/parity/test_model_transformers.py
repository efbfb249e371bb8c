"""The whole model equals transformers' GptOssForCausalLM: logits, every gradient, caches, generation, losses.

All in fp32, full tensors, with the same weights on both sides (``load_state_dict(strict=True)``). The weights
are drawn so that logits are of the size of those of a trained model, and so that activations go beyond the
clamp. Differences are measured against the largest value of the tensor that they are in: a gradient is a sum
over all tokens, and two orders of summation differ by roundings of that size, whatever is in a single entry.
"""

import ast
import math

import pytest
import torch
import torch.nn.functional as F

from book._tools.course_map import chosen
from book._tools.pairs import read_source
from gptoss_lib.cache import KVCache, ring_tokens
from gptoss_lib.config import GPTOSSConfig, RopeScaling
from gptoss_lib.generation import generate
from gptoss_lib.masks import padded_positions
from gptoss_lib.model import GPTOSS
from gptoss_lib.moe import load_balancing_loss

pytest.importorskip("transformers")
from transformers import DynamicCache, GptOssConfig, GptOssForCausalLM

TOLERANCE = 1e-5
# All sizes different, and a case with gpt-oss's width of a head, where YaRN is defined and has work to do.
SIZES = {
    "small": {
        "hidden_size": 40,
        "intermediate_size": 56,
        "num_hidden_layers": 5,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 9,
    },
    "gpt-oss heads": {
        "hidden_size": 72,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "sliding_window": 128,
    },
}
YARN = RopeScaling(factor=32.0, original_max_position_embeddings=256)


def configs(size="small", bias=True, tied=False, yarn=False, **changes):
    """Return one architecture as our config and as theirs."""
    shared = SIZES[size] | {
        "vocab_size": 97,
        "num_local_experts": 7,
        "num_experts_per_tok": 3,
        "attention_bias": bias,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 8192,
        "router_aux_loss_coef": 0.3,
        **changes,
    }
    ours = GPTOSSConfig(
        **shared, attention_out_bias=bias, rope_theta=150_000.0, rope_scaling=YARN if yarn else None
    )
    rope = {"rope_type": "default", "rope_theta": 150_000.0}
    if yarn:
        rope |= {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
        rope |= {"original_max_position_embeddings": 256}
    theirs = GptOssConfig(**shared, rope_parameters=rope, attn_implementation="eager", eos_token_id=None)
    return ours, theirs


def weights_for(model, seed=0):
    """Return a state dict with weights that keep the stream and the logits at a natural size."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in sorted(model.state_dict().items()):
        noise = torch.randn(value.shape, generator=generator)
        if "norm" in name:
            state[name] = 1 + 0.3 * noise
        elif name.endswith("gate_up_proj"):
            state[name] = 3 * noise * value.shape[1] ** -0.5  # beyond the clamp at 7
        elif name.endswith(("down_proj", "o_proj.weight")):
            state[name] = 0.5 * noise * value.shape[1] ** -0.5
        elif name.endswith(("bias", "sinks")):
            state[name] = 0.7 * noise
        elif name.endswith("embed_tokens.weight"):
            state[name] = noise
        else:
            state[name] = noise * value.shape[-1] ** -0.5
    if "lm_head.weight" in state and model.config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    return state


def pair(experts="eager", seed=0, **options):
    """Return our model and theirs with the same weights, and our config."""
    our_config, their_config = configs(**options)
    theirs = GptOssForCausalLM(their_config).eval()
    theirs.config._experts_implementation = experts
    theirs.load_state_dict(weights_for(theirs, seed), strict=True)
    ours = GPTOSS(our_config)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs, our_config


def token_ids(batch, length, vocab_size=97, seed=1):
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


def logits_and_gradients(model, logits, upstream):
    """Send the same upstream gradient back and return everything by name."""
    model.zero_grad()
    logits.backward(upstream)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    return {"logits": logits.detach()} | gradients


def largest_difference(ours, theirs):
    """Return the largest difference over all tensors, each relative to the largest value in it."""
    assert ours.keys() == theirs.keys()
    worst = 0.0
    for name, expected in theirs.items():
        scale = expected.abs().max().item()
        assert scale > 0, f"{name} is all zeros, which compares nothing"
        difference = (ours[name] - expected).abs().max().item() / max(scale, 1e-3)
        assert difference < TOLERANCE, f"{name} differs by {difference:.1e} of its largest value"
        worst = max(worst, difference)
    return worst


def report(record_property, component, difference):
    record_property("component", component)
    record_property("reference", "transformers GptOssForCausalLM")
    record_property("tolerance", TOLERANCE)
    record_property("largest difference", difference)


class Seen:
    """Collects what goes into the activation, to make sure that the clamp is at work."""

    def __init__(self, model):
        self.outside = dict.fromkeys(("gate above 7", "gate below -7", "up above 7", "up below -7"), False)
        for layer in model.model.layers:
            layer.mlp.register_forward_pre_hook(self._look)

    @torch.no_grad()
    def _look(self, mlp, inputs):
        experts, tokens = mlp.experts, inputs[0].flatten(0, -2)
        indices = mlp.router(tokens)[2]
        every = torch.einsum("nd,edf->nef", tokens, experts.gate_up_proj) + experts.gate_up_proj_bias
        inner = every.gather(1, indices.unsqueeze(-1).expand(-1, -1, every.shape[-1]))
        for name, part in (("gate", inner[..., ::2]), ("up", inner[..., 1::2])):
            self.outside[f"{name} above 7"] |= bool((part > 7).any())
            self.outside[f"{name} below -7"] |= bool((part < -7).any())


CASES = {
    "one token": {"length": 1},
    "as long as the window": {"length": 9},
    "one beyond the window": {"length": 10},
    "two windows and a bit": {"length": 20},
    "six windows": {"length": 55},
    "without attention biases": {"length": 31, "bias": False},
    "tied": {"length": 31, "tied": True},
    "all sliding": {"length": 31, "layer_types": ["sliding_attention"] * 5},
    "full first": {
        "length": 31,
        "layer_types": ["full_attention", "sliding_attention"] * 2 + ["full_attention"],
    },
    "YaRN off": {"length": 300, "size": "gpt-oss heads"},
    "YaRN on": {"length": 300, "size": "gpt-oss heads", "yarn": True},
    "YaRN on, tied, no biases": {
        "length": 530,
        "size": "gpt-oss heads",
        "yarn": True,
        "tied": True,
        "bias": False,
    },
}


@pytest.mark.parametrize("experts", ["eager", "grouped_mm"])
@pytest.mark.parametrize("case", CASES)
def test_logits_and_every_gradient(case, experts, record_property):
    options = dict(CASES[case])
    length, batch = options.pop("length"), 1 if "YaRN" in case else 3
    ours, theirs, config = pair(experts, **options)
    ids = token_ids(batch, length)
    upstream = torch.randn(batch, length, 97, generator=torch.Generator().manual_seed(2)) / length**0.5
    seen = Seen(ours)
    mine = logits_and_gradients(ours, ours(ids), upstream)
    reference = logits_and_gradients(theirs, theirs(ids).logits, upstream)
    report(
        record_property,
        "GPTOSS" + (" with YaRN" if options.get("yarn") else "") + ", logits and gradients",
        largest_difference(mine, reference),
    )
    assert reference["logits"].std() > 0.5, "the test is only worth something if the logits are not small"
    assert length == 1 or all(seen.outside.values()), seen.outside
    assert length < 9 or length >= config.sliding_window


def test_the_cases_could_fail(record_property):
    """The same comparison sees a window that is one too long in one layer."""
    ours, theirs, _ = pair()
    ids = token_ids(2, 31)
    expected = {"logits": theirs(ids).logits.detach()}
    ours.model.layers[2].self_attn.window += 1
    with pytest.raises(AssertionError, match="logits differs"):
        largest_difference({"logits": ours(ids).detach()}, expected)
    record_property("largest difference", "no comparison")


def test_strict_loading_in_both_directions(record_property):
    for options in ({}, {"bias": False}, {"tied": True}, {"size": "gpt-oss heads", "yarn": True}):
        our_config, their_config = configs(**options)
        ours, theirs = GPTOSS(our_config), GptOssForCausalLM(their_config).eval()
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        theirs.load_state_dict(ours.state_dict(), strict=True)
        ids = token_ids(2, 31)
        with torch.no_grad():
            difference = largest_difference({"logits": ours(ids)}, {"logits": theirs(ids).logits})
            fresh = GPTOSS(our_config)
            fresh.load_state_dict(theirs.state_dict(), strict=True)
            assert torch.equal(fresh(ids), ours(ids))
    report(record_property, "GPTOSS, weights loaded from ours into theirs", difference)


@pytest.mark.parametrize("yarn", [False, True], ids=["rope", "yarn"])
def test_padded_texts(yarn, record_property):
    ours, theirs, _ = pair(size="gpt-oss heads", yarn=yarn)
    length = 150
    real = torch.arange(length) >= torch.tensor([[0], [13], [140]])  # one text shorter than the window
    ids, positions = token_ids(3, length), padded_positions(real)
    upstream = torch.randn(3, length, 97, generator=torch.Generator().manual_seed(2)) / length**0.5
    upstream = upstream * real[..., None]  # nobody reads what padding says
    mine = logits_and_gradients(ours, ours(ids, position_ids=positions), upstream)
    expected = theirs(ids, attention_mask=real.long(), position_ids=positions.clamp(min=0)).logits
    reference = logits_and_gradients(theirs, expected, upstream)
    mine["logits"], reference["logits"] = mine["logits"][real], reference["logits"][real]
    name = "GPTOSS, padded texts, logits and gradients"
    report(record_property, name, largest_difference(mine, reference))


@pytest.mark.parametrize("prompt", [3, 8, 9, 10, 40])
def test_greedy_generation(prompt, record_property):
    ours, theirs, config = pair(seed=prompt)
    ids, new = token_ids(2, prompt), 30
    expected = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    cache = KVCache.from_config(config, batch_size=2, max_length=prompt + new)
    assert torch.equal(generate(ours, ids, new, temperature=0, cache=cache), expected.sequences)
    assert torch.equal(generate(ours, ids, new, temperature=0), expected.sequences)
    assert len(expected.sequences[:, prompt:].unique()) > 8, "a model that repeats itself tests little"

    cache.reset()
    difference = 0.0
    with torch.no_grad():
        step = ids
        for index, logits in enumerate(expected.logits):  # one [B, V] a step
            mine = ours(step, cache=cache, logits_to_keep=1)[:, -1]
            difference = max(difference, largest_difference({"logits": mine}, {"logits": logits}))
            step = expected.sequences[:, prompt + index, None]
    report(record_property, "GPTOSS with KVCache, greedy generation", difference)


@pytest.mark.parametrize("chunks", [(8,), (9, 1), (4, 4, 4, 1, 1, 1), (40, 1, 7)])
def test_what_the_cache_holds(chunks, record_property):
    ours, theirs, config = pair()
    mine = KVCache.from_config(config, batch_size=2, max_length=sum(chunks))
    reference = DynamicCache(config=theirs.config)
    difference = 0.0
    with torch.no_grad():
        for part in token_ids(2, sum(chunks)).split(chunks, dim=1):
            expected = theirs(part, past_key_values=reference, use_cache=True).logits
            result = ours(part, cache=mine)
            difference = max(difference, largest_difference({"logits": result}, {"logits": expected}))
    for layer, their_layer in zip(mine.layers, reference.layers, strict=True):
        where = ring_tokens(mine.length, layer.slots)
        order = where.argsort()[(where < 0).sum() :]  # oldest first, empty slots left out
        kept = min(len(order), their_layer.keys.shape[-2])
        assert kept >= min(mine.length, config.sliding_window - 1)
        for name in ("keys", "values"):
            stored = getattr(layer, name)[:, :, order[len(order) - kept :]]
            expected = getattr(their_layer, name)[:, :, -kept:]
            difference = max(difference, largest_difference({name: stored}, {name: expected}))
    report(record_property, "GPTOSS with KVCache, what it holds", difference)


@pytest.mark.parametrize("with_router", [False, True], ids=["cross-entropy", "with the balancing loss"])
def test_losses_and_their_gradients(with_router, record_property):
    ours, theirs, config = pair()
    ids = token_ids(3, 31)
    labels = ids.clone()
    labels[0, 20:] = -100
    labels[1, 5] = -100
    expected = theirs(ids, labels=labels, output_router_logits=with_router)  # it shifts the labels itself
    expected.loss.backward()
    shifted = torch.cat((labels[:, 1:], torch.full((3, 1), -100)), dim=1)
    loss, router_logits = ours(ids, labels=shifted)
    if with_router:
        together = torch.cat(router_logits)  # transformers puts the layers together
        balance = load_balancing_loss(together, config.num_experts_per_tok)
        torch.testing.assert_close(balance, expected.aux_loss, atol=0, rtol=TOLERANCE)
        loss = loss + config.router_aux_loss_coef * balance
    loss.backward()
    results = [
        {"loss": value.detach()} | {name: parameter.grad for name, parameter in model.named_parameters()}
        for model, value in ((ours, loss), (theirs, expected.loss))
    ]
    name = "GPTOSS, loss" + (" with balancing" if with_router else "")
    report(record_property, name, largest_difference(*results))


def test_router_logits(record_property):
    ours, theirs, _ = pair()
    ids = token_ids(3, 31)
    with torch.no_grad():
        _, mine = ours(ids, labels=ids)
        reference = theirs(ids, output_router_logits=True).router_logits
    assert len(mine) == len(reference) == 5
    named = [{str(layer): logits for layer, logits in enumerate(group)} for group in (mine, reference)]
    report(record_property, "GPTOSS, router logits", largest_difference(*named))


@pytest.mark.parametrize("keep", [1, 4])
def test_only_the_last_logits(keep, record_property):
    ours, theirs, _ = pair()
    ids = token_ids(2, 12)
    with torch.no_grad():
        mine, reference = (model(ids, logits_to_keep=keep) for model in (ours, theirs))
    assert mine.shape == (2, keep, 97)
    difference = largest_difference({"logits": mine}, {"logits": reference.logits})
    report(record_property, "GPTOSS, the last logits only", difference)


@pytest.mark.parametrize("case", ["six windows", "YaRN on"])
def test_32_bits_are_as_close_to_64_as_theirs(case, record_property):
    """What is left is rounding: both implementations are equally far from the same model in 64 bits."""
    options = dict(CASES[case])
    length = options.pop("length")
    ours, theirs, _ = pair(**options)
    ids = token_ids(2, length)
    upstream = torch.randn(2, length, 97, generator=torch.Generator().manual_seed(2)) / length**0.5
    mine = logits_and_gradients(ours, ours(ids), upstream)
    reference = logits_and_gradients(theirs, theirs(ids).logits, upstream)
    exact = GPTOSS(ours.config).double()
    exact.load_state_dict(ours.state_dict())
    truth = logits_and_gradients(exact, exact(ids), upstream.double())

    def error(values):
        return max(
            ((values[name] - true).abs().max() / true.abs().max()).item() for name, true in truth.items()
        )

    assert error(mine) < TOLERANCE and error(mine) < 3 * error(reference)
    report(record_property, "GPTOSS against itself in 64 bits", error(mine))


def test_their_last_hidden_state_is_not_the_stream(record_property):
    """The chapter warns of it: the last of their hidden states has been through the final norm."""
    ours, theirs, _ = pair()
    ids, streams = token_ids(2, 31), []
    for layer in ours.model.layers:
        layer.register_forward_hook(lambda module, inputs, out: streams.append(out[0]))
    with torch.no_grad():
        ours(ids)
        reference = theirs(ids, output_hidden_states=True).hidden_states[1:]
    for index, (mine, expected) in enumerate(zip(streams[:-1], reference[:-1], strict=True)):
        largest_difference({f"stream after block {index}": mine}, {f"stream after block {index}": expected})
    assert not torch.allclose(streams[-1], reference[-1], atol=0.1)
    normed = ours.model.norm(streams[-1]).detach()
    difference = largest_difference({"normed": normed}, {"normed": reference[-1]})
    report(record_property, "GPTOSS, the stream after every block", difference)


def test_the_numbers_in_the_chapter(record_property):
    """The chapter compares with numbers that transformers produced; produce them again."""
    (chapter,) = chosen(["15"])
    (cell,) = [
        cell
        for cell in read_source(chapter.source).cells
        if cell.source.startswith("# the same model, twice")
    ]
    names = {"torch": torch, "GPTOSSConfig": GPTOSSConfig, "GPTOSS": GPTOSS, "F": F, "math": math}
    stored = [
        node.value
        for node in ast.parse(cell.source).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "THEIRS"
    ]
    assert len(stored) == 1 and ast.literal_eval(stored[0])
    exec(cell.source, names)
    config = names["model"].config
    theirs = GptOssForCausalLM(
        GptOssConfig(
            **{
                name: getattr(config, name)
                for name in (
                    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"),
                    *("num_attention_heads", "num_key_value_heads", "num_local_experts"),
                    *("num_experts_per_tok", "sliding_window", "max_position_embeddings"),
                )
            },
            rope_parameters={"rope_type": "yarn", "rope_theta": config.rope_theta}
            | {name: getattr(config.rope_scaling, name) for name in config.rope_scaling.__dataclass_fields__},
            attn_implementation="eager",
        )
    )
    theirs.load_state_dict(names["model"].state_dict(), strict=True)
    result = names["summary"](theirs, theirs(names["ids"]).logits)
    assert result.keys() == names["THEIRS"].keys()
    difference = max(abs(result[key] / value - 1) for key, value in names["THEIRS"].items())
    assert difference < 5e-5, f"the chapter's numbers differ by {difference}; they should be {result}"
    report(record_property, "GPTOSS, the chapter's numbers", difference)
