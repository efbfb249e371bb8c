"""Training against torch.optim and transformers: the update, the schedule, the decay groups, the loss."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from gptoss_lib.data import Batches
from gptoss_lib.gpt2 import GPT2, GPT2Config
from gptoss_lib.training import Trainer, TrainingConfig, learning_rate_at, next_token_loss, parameter_groups

transformers = pytest.importorskip("transformers")

V, T = 41, 13
CONFIG = TrainingConfig(
    steps=20,
    batch_size=3,
    seq_len=T,
    warmup_steps=6,
    learning_rate=2e-3,
    min_lr_ratio=0.2,
    weight_decay=0.3,
    grad_clip=0.7,
    eps=1e-5,  # the gradient of a key's bias is rounding noise; a smaller eps would blow it up
    log_every=1,
)


def make_model() -> GPT2:
    torch.manual_seed(2)
    return GPT2(GPT2Config(vocab_size=V, n_positions=T + 2, n_embd=24, n_layer=2, n_head=3))


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_run_equals_a_plain_loop_with_torch_and_transformers(tmp_path, record_property):
    tokens = np.random.default_rng(0).integers(0, V, 900)
    data = SimpleNamespace(train=tokens, val=tokens[:60], val_bytes=100)
    ours = Trainer(make_model(), data, CONFIG, tmp_path)
    records = [record for record in ours.train() if record["kind"] == "train"]

    model = make_model()
    optimizer = torch.optim.AdamW(
        parameter_groups(model, CONFIG.weight_decay),
        lr=CONFIG.learning_rate,
        betas=(0.9, 0.95),
        eps=CONFIG.eps,
        foreach=False,
    )
    # The schedule of transformers gives the first update the rate 0; ours is the same, one update on.
    schedule = transformers.get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, CONFIG.warmup_steps, CONFIG.steps, min_lr_rate=CONFIG.min_lr_ratio
    )
    schedule.step()
    batches = Batches(tokens, CONFIG.batch_size, T, CONFIG.seed)
    for record in records:
        input_ids, labels = next(batches)
        loss = nn.functional.cross_entropy(model(input_ids).view(-1, V), labels.view(-1))
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), CONFIG.grad_clip)
        assert record["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert record["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
        assert record["learning_rate"] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        schedule.step()
    assert max(record["grad_norm"] for record in records) > CONFIG.grad_clip, "clipping was never at work"
    for (name, one), other in zip(ours.state.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)
    record_property("component", "training run, weights at the end")
    pairs = zip(ours.state.model.parameters(), model.parameters(), strict=True)
    record_property("largest difference", max((a - b).abs().max().item() for a, b in pairs))


@pytest.mark.parametrize(
    ("warmup", "steps", "ratio"), [(0, 17, 0.1), (1, 9, 0.0), (6, 40, 0.25), (12, 12, 0.1)]
)
def test_the_schedule_is_that_of_transformers_one_update_on(warmup, steps, ratio, record_property):
    config = replace(CONFIG, warmup_steps=warmup, steps=steps, min_lr_ratio=ratio, learning_rate=0.5)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = transformers.get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, warmup, steps, min_lr_rate=ratio
    )
    theirs = []
    for _ in range(steps + 1):
        theirs.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    ours = [learning_rate_at(step, config) for step in range(steps)]
    assert ours == pytest.approx(theirs[1:], rel=1e-12, abs=1e-15)
    record_property("largest difference", max(abs(a - b) for a, b in zip(ours, theirs[1:], strict=True)))
    record_property("component", "learning-rate schedule")
    record_property("reference", "transformers")
    record_property("tolerance", 1e-12)


def test_the_decayed_parameters_are_those_of_transformers_but_for_the_embeddings(record_property):
    model = make_model()
    trainer = SimpleNamespace(model=model)
    theirs = set(transformers.Trainer.get_decay_parameter_names(trainer, model))
    names = {parameter: name for name, parameter in model.named_parameters()}
    ours = {names[parameter] for parameter in parameter_groups(model, 0.1)[0]["params"]}
    assert theirs - ours == {"wte.weight", "wpe.weight"}
    assert ours <= theirs
    record_property("component", "parameters that decay")
    record_property("reference", "transformers")
    record_property("largest difference", "equal")


def test_accumulation_equals_the_fixed_loss_of_transformers(record_property):
    from transformers.loss.loss_utils import ForCausalLMLoss

    generator = torch.Generator().manual_seed(0)
    model = make_model()
    input_ids, labels = torch.randint(V, (2, 6, T), generator=generator)
    labels[0, 2:], labels[3, 5:] = -100, -100
    total = (labels != -100).sum()
    ours = theirs = 0.0
    for ids, wanted in zip(input_ids.split(2), labels.split(2), strict=True):
        ours = ours + (wanted != -100).sum() / total * next_token_loss(model, ids, wanted)[0]
        theirs = theirs + ForCausalLMLoss(
            model(ids), labels=None, vocab_size=V, num_items_in_batch=total, shift_labels=wanted
        )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours, next_token_loss(model, input_ids, labels)[0], rtol=1e-6, atol=1e-6)
    record_property("component", "loss over accumulated batches")
    record_property("reference", "transformers")
    record_property("tolerance", 1e-6)
    record_property("largest difference", abs(ours - theirs).item())
