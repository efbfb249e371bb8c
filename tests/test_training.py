"""Training: the schedule, the groups, one update, evaluation, the log, checkpoints and exact resume."""

import json
import math
import pickle
import sys
import threading
from dataclasses import asdict, replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from gptoss_lib import training
from gptoss_lib.gpt2 import GPT2, GPT2Config
from gptoss_lib.training import (
    LivePlot,
    Trainer,
    TrainingConfig,
    evaluate,
    learning_rate_at,
    load_checkpoint,
    load_weights,
    next_token_loss,
    parameter_groups,
    read_log,
    save_checkpoint,
)

V, D, T, B = 37, 24, 11, 5
CONFIG = TrainingConfig(
    steps=26,
    batch_size=B,
    seq_len=T,
    grad_accumulation_steps=2,
    warmup_steps=4,
    learning_rate=3e-3,
    log_every=1,
    eval_every=9,
    checkpoint_every=7,
)


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(4)
    steps = generator.choice([1, 2, 3, 30], size=3000, p=[0.5, 0.3, 0.1, 0.1])
    tokens = (np.cumsum(steps) % V).astype(np.uint16)
    return SimpleNamespace(train=tokens[:2600], val=tokens[2600:], val_bytes=1234)


def make_model(n_layer: int = 2, seed: int = 0) -> GPT2:
    torch.manual_seed(seed)
    return GPT2(GPT2Config(vocab_size=V, n_positions=T + 3, n_embd=D, n_layer=n_layer, n_head=3))


class Dropping(nn.Module):
    """A model that draws random numbers in training."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.dropout, self.head = nn.Embedding(V, D), nn.Dropout(0.3), nn.Linear(D, V)

    def forward(self, input_ids):
        return self.head(self.dropout(self.embed(input_ids)))


def without_timings(records: list[dict]) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def assert_same_checkpoint(path, other) -> None:
    (tensors, state), (expected, expected_state) = load_checkpoint(path), load_checkpoint(other)
    assert tensors.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(tensors[name], expected[name])] == []
    for values in (state, expected_state):
        del values["seconds"], values["log_bytes"]
    assert state == expected_state


# The configuration and the schedule


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"grad_accumulation_steps": 0}, "grad_accumulation_steps is 0"),
        ({"warmup_steps": 27}, "warmup_steps is 27; choose 0 to steps=26"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"precision": "fp16"}, "precision is 'fp16'; choose 'fp32' or 'bf16'"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_learning_rate_by_hand():
    config = TrainingConfig(steps=12, warmup_steps=4, learning_rate=0.8, min_lr_ratio=0.25)
    expected = [0.2, 0.4, 0.6, 0.8]
    expected += [0.2 + 0.6 * 0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(1, 9)]
    assert [learning_rate_at(step, config) for step in range(12)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("warmup", [0, 1, 7, 30])
def test_learning_rate_reaches_both_ends_and_is_never_zero(warmup):
    config = TrainingConfig(
        steps=30, warmup_steps=warmup, learning_rate=2e-3, min_lr_ratio=0.0 if warmup else 0.1
    )
    rates = [learning_rate_at(step, config) for step in range(30)]
    assert max(rates) == pytest.approx(2e-3, rel=5e-3)
    assert min(rates[:-1]) > 0
    if warmup < 30:
        assert rates.index(max(rates)) == max(0, warmup - 1)
        assert (
            rates[-1] == learning_rate_at(99, config) == pytest.approx(2e-3 * config.min_lr_ratio, abs=1e-12)
        )


# Which parameters decay


def test_only_matrices_that_are_not_tables_decay():
    model = make_model()
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, spared = parameter_groups(model, 0.3)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    assert {names[p].rsplit(".", 2)[-2] for p in decayed["params"]} == {"c_attn", "c_proj", "c_fc"}
    assert all(names[p].endswith("weight") for p in decayed["params"])
    assert {"wte.weight", "wpe.weight", "ln_f.weight", "h.0.attn.c_attn.bias"} <= {
        names[p] for p in spared["params"]
    }
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_stacked_biases_do_not_decay_and_frozen_or_tied_parameters_are_not_repeated():
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_up_proj = nn.Parameter(torch.zeros(4, 6, 10))  # [E, D, 2F]
            self.gate_up_proj_bias = nn.Parameter(torch.zeros(4, 10))  # [E, 2F]
            self.sinks = nn.Parameter(torch.zeros(3))
            self.embed = nn.Embedding(7, 6)
            self.lm_head = nn.Linear(6, 7, bias=False)
            self.lm_head.weight = self.embed.weight
            self.frozen = nn.Linear(6, 5).requires_grad_(False)

    experts = Experts()
    decayed, spared = parameter_groups(experts, 0.1)
    assert [id(p) for p in decayed["params"]] == [id(experts.gate_up_proj)]
    assert {id(p) for p in spared["params"]} == {
        id(p) for p in (experts.gate_up_proj_bias, experts.sinks, experts.embed.weight)
    }
    assert len(spared["params"]) == 3


# One update


def test_the_loss_is_the_mean_over_predicted_tokens():
    model, generator = make_model(), torch.Generator().manual_seed(1)
    input_ids = torch.randint(V, (3, T), generator=generator)
    labels = torch.randint(V, (3, T), generator=generator)
    labels[1, 4:] = -100
    loss, metrics = next_token_loss(model, input_ids, labels)
    log_probs = model(input_ids).log_softmax(-1)
    terms = [-log_probs[b, t, labels[b, t]] for b in range(3) for t in range(T) if labels[b, t] >= 0]
    assert len(terms) == 3 * T - 7
    torch.testing.assert_close(loss, torch.stack(terms).mean())
    assert metrics == {}


class Fixed:
    """Batches that are given, over and over."""

    def __init__(self, batches) -> None:
        self.given, self.next = batches, 0

    def __next__(self):
        self.next += 1
        return self.given[(self.next - 1) % len(self.given)]

    def state_dict(self) -> dict:
        return {"next": self.next}

    def load_state_dict(self, state: dict) -> None:
        self.next = state["next"]


def uneven_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    input_ids, labels = torch.randint(V, (2, 6, T), generator=generator)
    labels[0, 3:], labels[2, 1:], labels[3, 9:] = -100, -100, -100
    return input_ids, labels


def test_accumulated_micro_batches_equal_the_big_batch(data, tmp_path):
    input_ids, labels = uneven_batch()
    models = []
    for name, parts in (("big", 1), ("parts", 3)):
        config = replace(CONFIG, steps=1, warmup_steps=0, grad_accumulation_steps=parts, grad_clip=0.0)
        trainer = Trainer(make_model(), data, config, tmp_path / name)
        trainer.state.batches = Fixed(list(zip(input_ids.chunk(parts), labels.chunk(parts), strict=True)))
        trainer.train()
        models.append(trainer.state.model)
    (big, _), (parts, _) = (next_token_loss(model, input_ids, labels) for model in models)
    torch.testing.assert_close(parts, big, rtol=1e-6, atol=1e-6)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-7)
    logged = [read_log(tmp_path / name / "log.jsonl")[0] for name in ("big", "parts")]
    assert logged[0]["loss"] == pytest.approx(logged[1]["loss"], rel=1e-6)
    assert logged[0]["tokens"] == logged[1]["tokens"] == int((labels >= 0).sum())


def test_metrics_are_averaged_over_tokens_and_logged(data, tmp_path):
    input_ids, labels = uneven_batch()

    def loss_fn(model, input_ids, labels):
        loss, _ = next_token_loss(model, input_ids, labels)
        return loss, {"predicted": (labels >= 0).sum(), "constant": 2.5}

    config = replace(CONFIG, steps=1, warmup_steps=0, grad_accumulation_steps=3)
    trainer = Trainer(make_model(), data, config, tmp_path, loss_fn=loss_fn)
    trainer.state.batches = Fixed(list(zip(input_ids.chunk(3), labels.chunk(3), strict=True)))
    record = trainer.train()[0]
    counts = [(part >= 0).sum().item() for part in labels.chunk(3)]
    assert len(set(counts)) == 3
    assert record["predicted"] == pytest.approx(sum(n * n for n in counts) / sum(counts))
    assert record["constant"] == pytest.approx(2.5)


def test_the_whole_gradient_is_clipped_by_its_norm(data, tmp_path):
    config = replace(CONFIG, steps=1, warmup_steps=0)
    norms = {}
    for clip in (0.0, 0.05):
        trainer = Trainer(make_model(), data, replace(config, grad_clip=clip), tmp_path / str(clip))
        logged = trainer.train()[0]["grad_norm"]
        left = torch.cat([p.grad.flatten() for p in trainer.state.model.parameters()]).norm().item()
        norms[clip] = (logged, left)
    assert norms[0.0][0] == pytest.approx(norms[0.05][0]) == pytest.approx(norms[0.0][1], rel=1e-5)
    assert norms[0.05][1] == pytest.approx(0.05, rel=1e-4)


def test_every_update_uses_and_logs_its_own_rate(data, tmp_path):
    used = []
    trainer = Trainer(make_model(), data, CONFIG, tmp_path)
    step = trainer.state.optimizer.step

    def spy():
        used.append([group["lr"] for group in trainer.state.optimizer.param_groups])
        step()

    trainer.state.optimizer.step = spy
    records = [record for record in trainer.train() if record["kind"] == "train"]
    expected = [learning_rate_at(step, CONFIG) for step in range(CONFIG.steps)]
    assert used == [[rate, rate] for rate in expected]
    assert [record["learning_rate"] for record in records] == expected


def test_every_update_starts_from_a_clean_gradient(data, tmp_path):
    standing = replace(CONFIG, steps=5, warmup_steps=0, learning_rate=1e-12, grad_clip=0.0)
    trainer = Trainer(make_model(), data, standing, tmp_path)
    trainer.state.batches = Fixed([next(trainer.state.batches)])
    norms = [record["grad_norm"] for record in trainer.train() if record["kind"] == "train"]
    assert norms == pytest.approx([norms[0]] * 5, rel=1e-4)


def test_the_model_learns(data, tmp_path):
    records = Trainer(make_model(), data, replace(CONFIG, steps=150), tmp_path).train()
    losses = [record["loss"] for record in records if record["kind"] == "val"]
    assert records[0]["loss"] == pytest.approx(math.log(V), abs=0.2)
    assert losses[-1] < 2.0 < losses[0]


# Precision


def test_bf16_keeps_weights_and_moments_in_fp32(data, tmp_path):
    seen = []

    def loss_fn(model, input_ids, labels):
        seen.append(model(input_ids).dtype)
        return next_token_loss(model, input_ids, labels)

    trainer = Trainer(
        make_model(), data, replace(CONFIG, precision="bf16", steps=4), tmp_path, loss_fn=loss_fn
    )
    trainer.train()
    assert set(seen) == {torch.bfloat16}
    moments = [v for entry in trainer.state.optimizer.state.values() for v in entry.values()]
    assert {t.dtype for t in [*moments, *trainer.state.model.parameters()]} == {torch.float32}


def test_weights_that_are_not_fp32_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"wte.weight is torch.bfloat16; keep the weights in fp32"):
        Trainer(make_model().bfloat16(), data, CONFIG, tmp_path)


# Evaluation


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_evaluation_scores_every_token_once(data, batch_size):
    model = make_model()
    nats, tokens = evaluate(model, data.val, batch_size, T)
    assert tokens == len(data.val)
    stream = torch.from_numpy(np.concatenate([data.val[-1:], data.val]).astype(np.int64))
    expected = sum(
        F.cross_entropy(
            model(stream[None, i : i + T][:, : len(data.val) - i])[0], stream[i + 1 :][:T], reduction="sum"
        )
        for i in range(0, len(data.val), T)
    )
    assert nats == pytest.approx(expected.item(), rel=1e-6)


def test_evaluation_restores_the_mode_and_runs_without_dropout(data):
    model = Dropping().train()
    first, second = (evaluate(model, data.val, 4, T) for _ in range(2))
    assert first == second
    assert model.training
    assert evaluate(model.eval(), data.val, 4, T) == first
    assert not model.training


# Resuming


@pytest.mark.parametrize("make", [make_model, Dropping])
@pytest.mark.parametrize("stops", [(13,), (1, 2, 9, 20)])
def test_a_resumed_run_equals_a_straight_one_bit_for_bit(data, tmp_path, make, stops):
    Trainer(make(), data, CONFIG, tmp_path / "straight").train()
    for until in (*stops, None):
        torch.manual_seed(hash(stops) % 1000)  # whatever the process did before must not matter
        np.random.seed(1)
        Trainer(make(), data, CONFIG, tmp_path / "resumed").train(until)
    for name in ("latest.safetensors", "best.safetensors"):
        assert_same_checkpoint(tmp_path / "resumed" / name, tmp_path / "straight" / name)
    logs = [without_timings(read_log(tmp_path / name / "log.jsonl")) for name in ("straight", "resumed")]
    assert logs[0] == logs[1]


def test_lines_and_updates_after_the_last_checkpoint_are_redone(data, tmp_path):
    def crash(record):
        if record["step"] == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(make_model(), data, CONFIG, tmp_path / "cut", loggers=[crash]).train()
    with open(tmp_path / "cut" / "log.jsonl", "a") as file:
        file.write('{"kind": "train", "st')  # what a killed process may leave
    same = Trainer(make_model(seed=5), data, CONFIG, tmp_path / "cut")
    assert load_checkpoint(same.latest)[1]["step"] == 7
    resumed, straight = same.train(), Trainer(make_model(), data, CONFIG, tmp_path / "straight").train()
    assert without_timings(resumed) == without_timings(straight)
    assert_same_checkpoint(same.latest, tmp_path / "straight" / "latest.safetensors")


def test_the_same_trainer_can_go_on_after_an_interruption(data, tmp_path):
    crashes = [12]

    def crash_once(record):
        if crashes and record["step"] == crashes[0]:
            raise KeyboardInterrupt(crashes.pop())

    trainer = Trainer(make_model(), data, CONFIG, tmp_path / "cut", loggers=[crash_once])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    straight = Trainer(make_model(), data, CONFIG, tmp_path / "straight").train()
    assert without_timings(trainer.train()) == without_timings(straight)


def test_training_leaves_the_callers_random_numbers_alone(data, tmp_path):
    torch.manual_seed(8)
    expected = torch.rand(3)
    torch.manual_seed(8)
    Trainer(model := Dropping(), data, CONFIG, tmp_path)  # Dropping seeds: reset below
    torch.manual_seed(8)
    Trainer(model, data, CONFIG, tmp_path).train()
    assert torch.equal(torch.rand(3), expected)


def test_a_finished_run_makes_no_further_update(data, tmp_path, monkeypatch):
    first = Trainer(make_model(), data, CONFIG, tmp_path).train()
    monkeypatch.setattr(Trainer, "_update", lambda self: pytest.fail("an update after the end"))
    again = Trainer(model := make_model(seed=3), data, CONFIG, tmp_path)
    assert again.train() == first
    stored, _ = load_checkpoint(tmp_path / "latest.safetensors")
    assert torch.equal(model.wte.weight, stored["model.wte.weight"])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"steps": 30}, r"config.steps=26, but this one has 30"),
        ({"learning_rate": 1e-3}, r"config.learning_rate=0.003, but this one has 0.001"),
        ({"seed": 9}, r"config.seed=0, but this one has 9"),
        ({"precision": "bf16"}, r"config.precision='fp32', but this one has 'bf16'"),
    ],
)
def test_resuming_with_another_config_names_the_field(data, tmp_path, changes, field):
    Trainer(make_model(), data, CONFIG, tmp_path).train(until=2)
    with pytest.raises(ValueError, match=field):
        Trainer(make_model(), data, replace(CONFIG, **changes), tmp_path).train()


def test_resuming_with_another_model_or_other_data_names_what_differs(data, tmp_path):
    Trainer(make_model(), data, CONFIG, tmp_path).train(until=2)
    with pytest.raises(ValueError, match=r"model.n_layer=2, but this one has 3"):
        Trainer(make_model(n_layer=3), data, CONFIG, tmp_path).train()
    fewer = SimpleNamespace(train=data.train[:-9], val=data.val, val_bytes=data.val_bytes)
    with pytest.raises(ValueError, match=r"data.train_tokens=2600, but this one has 2591"):
        Trainer(make_model(), fewer, CONFIG, tmp_path).train()


def test_what_does_not_change_the_result_may_change(data, tmp_path):
    Trainer(make_model(), data, CONFIG, tmp_path / "a").train()
    Trainer(make_model(), data, CONFIG, tmp_path / "b").train(until=10)
    resumed = Trainer(make_model(), data, replace(CONFIG, checkpoint_every=3), tmp_path / "b")
    resumed.train()
    (tensors, _), (others, _) = (load_checkpoint(tmp_path / run / "latest.safetensors") for run in "ab")
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_a_log_that_does_not_belong_to_the_checkpoint_is_refused(data, tmp_path):
    Trainer(make_model(), data, CONFIG, tmp_path).train(until=9)
    log = tmp_path / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"log.jsonl has lost lines that latest.safetensors counts on"):
        Trainer(make_model(), data, CONFIG, tmp_path).train()
    (tmp_path / "latest.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has a log but no checkpoint"):
        Trainer(make_model(), data, CONFIG, tmp_path).train()


# Checkpoints


def test_best_holds_the_weights_with_the_lowest_validation_loss(data, tmp_path):
    calls = iter(range(1000))

    def uphill_later(model, input_ids, labels):
        loss, metrics = next_token_loss(model, input_ids, labels)
        return (loss if next(calls) < 2 * 15 else -loss), metrics

    config = replace(CONFIG, steps=24, eval_every=5)
    records = Trainer(make_model(), data, config, tmp_path, loss_fn=uphill_later).train()
    lowest = min((r for r in records if r["kind"] == "val"), key=lambda record: record["nats"])
    assert lowest["step"] == 15
    model = make_model(seed=7)
    state = load_weights(model, tmp_path / "best.safetensors")
    assert state["step"] == lowest["step"]
    assert evaluate(model, data.val, B, T)[0] == lowest["nats"]
    assert not any(
        name.startswith("optimizer.") for name in load_checkpoint(tmp_path / "best.safetensors")[0]
    )


def test_val_records_say_what_the_loss_is_in_every_unit(data, tmp_path):
    record = Trainer(make_model(), data, CONFIG, tmp_path).train()[-1]
    assert (record["kind"], record["step"]) == ("val", 26)
    assert record["loss"] == pytest.approx(record["nats"] / len(data.val))
    assert record["bits_per_byte"] == pytest.approx(record["nats"] / math.log(2) / data.val_bytes)


def test_a_checkpoint_says_everything_about_the_run(data, tmp_path):
    trainer = Trainer(make_model(), data, CONFIG, tmp_path)
    trainer.train(until=8)
    tensors, state = load_checkpoint(trainer.latest)
    parameters = dict(trainer.state.model.named_parameters())
    assert {name for name in tensors if name.startswith("model.")} == {f"model.{name}" for name in parameters}
    for name, parameter in parameters.items():
        assert tensors[f"optimizer.{name}.exp_avg"].shape == parameter.shape
        assert tensors[f"optimizer.{name}.exp_avg_sq"].min() >= 0
        assert tensors[f"optimizer.{name}.step"] == 8
    assert state["step"] == 8 and state["tokens"] == 8 * 2 * B * T
    assert state["config"] == asdict(CONFIG)
    assert state["model"]["n_embd"] == D
    assert state["batches"]["step"] == 16
    assert {"rng.cpu"} == {name for name in tensors if name.startswith("rng.")}


def test_tied_weights_are_stored_once_and_restored_twice(tmp_path):
    class Tied(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.embed, self.lm_head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.lm_head.weight = self.embed.weight

    one, other = Tied(1), Tied(2)
    save_checkpoint(tmp_path / "tied.safetensors", training._model_tensors(one), {"step": 3})
    assert load_weights(other, tmp_path / "tied.safetensors") == {"step": 3}
    assert torch.equal(other.lm_head.weight, one.embed.weight)
    assert other.lm_head.weight is other.embed.weight


def test_nothing_is_ever_pickled(data, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("something was pickled")

    for module, names in (
        (torch, ("load", "save")),
        (pickle, ("load", "loads", "dump", "dumps", "Unpickler")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    Trainer(make_model(), data, CONFIG, tmp_path).train(until=8)
    Trainer(make_model(), data, CONFIG, tmp_path).train(until=9)


@pytest.mark.parametrize("broken", ["save_file", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch, broken):
    path = tmp_path / "latest.safetensors"
    save_checkpoint(path, {"x": torch.arange(3.0)}, {"step": 1})

    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(training if broken == "save_file" else training.os, broken, fail)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"x": torch.zeros(3)}, {"step": 2})
    tensors, state = load_checkpoint(path)
    assert state == {"step": 1} and torch.equal(tensors["x"], torch.arange(3.0))


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(training.os, name)
        monkeypatch.setattr(
            training.os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))
        )
    save_checkpoint(tmp_path / "x.safetensors", {"x": torch.zeros(2)}, {})
    assert calls == ["fsync", "replace", "fsync"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.05, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(data, tmp_path, share):
    trainer = Trainer(make_model(), data, CONFIG, tmp_path)
    trainer.train(until=2)
    whole = trainer.latest.read_bytes()
    trainer.latest.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        ValueError, match=r"latest.safetensors is cut off or not a safetensors file .*; delete it"
    ):
        Trainer(make_model(), data, CONFIG, tmp_path).train()


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps({"step": 3, "weights": list(range(500))}))
    with pytest.raises(ValueError, match="cut off or not a safetensors file"):
        load_checkpoint(path)
    save_file({"a": torch.zeros(2), "b": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="holds 2 tensors but no training state"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.update({"model.ln_f.weight": torch.zeros(D + 1)}),
            r"ln_f.weight is \[25\] .* and \[24\] in this",
        ),
        (lambda w: w.pop("model.ln_f.bias"), r"ln_f.bias is absent in the checkpoint and \[24\]"),
        (lambda w: w.update({"model.extra": torch.zeros(2)}), r"extra is \[2\] in the checkpoint and absent"),
    ],
)
def test_weights_of_another_model_are_refused_and_change_nothing(tmp_path, change, message):
    weights = {name: torch.zeros_like(t) for name, t in training._model_tensors(make_model()).items()}
    change(weights)
    save_checkpoint(tmp_path / "x.safetensors", weights, {})
    model, fresh = make_model(), make_model()
    with pytest.raises(ValueError, match=message):
        load_weights(model, tmp_path / "x.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))


# When a run goes wrong


def spoiled(spoil, at: int):
    calls = 0

    def loss_fn(model, input_ids, labels):
        nonlocal calls
        calls += 1
        loss, metrics = next_token_loss(model, input_ids, labels)
        return (spoil(loss, model) if calls == at else loss), metrics

    return loss_fn


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda loss, model: loss * math.nan, "loss nan"),
        (lambda loss, model: loss + math.inf, "loss inf"),
        (lambda loss, model: loss + (model.wte.weight[0, 0] * 0).abs().sqrt(), "gradient norm nan"),
    ],
)
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run_and_is_kept(data, tmp_path, spoil, message):
    trainer = Trainer(make_model(), data, CONFIG, tmp_path / "bad", loss_fn=spoiled(spoil, at=2 * 9 + 2))
    with pytest.raises(FloatingPointError, match=rf"Update 10: .*{message}.*failure.safetensors"):
        trainer.train()
    kept, state = load_checkpoint(tmp_path / "bad" / "failure.safetensors")
    assert state["step"] == 9

    good = Trainer(make_model(), data, CONFIG, tmp_path / "good")
    good.train(until=9)
    expected, _ = load_checkpoint(good.latest)
    assert all(torch.equal(kept[name], expected[name]) for name in expected)
    for index in range(2):
        input_ids, labels = next(good.state.batches)
        assert torch.equal(kept[f"batch.{index}.input_ids"], input_ids)
        assert torch.equal(kept[f"batch.{index}.labels"], labels)
    assert load_checkpoint(trainer.latest)[1]["step"] == 7, "the last good checkpoint stays"


# Loggers


def test_loggers_see_what_the_log_holds(data, tmp_path):
    seen = []
    config = replace(CONFIG, log_every=4)
    records = Trainer(make_model(), data, config, tmp_path, loggers=[seen.append]).train()
    assert seen == records
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 4, 8, 12, 16, 20, 24, 26]
    assert [r["step"] for r in records if r["kind"] == "val"] == [9, 18, 26]


RECORD = {"kind": "train", "step": 6, "loss": 2.5, "learning_rate": 0.1}


def test_tensorboard(monkeypatch, tmp_path):
    written = []

    class SummaryWriter:
        def __init__(self, folder) -> None:
            written.append(folder)

        def add_scalar(self, *values) -> None:
            written.append(values)

        def flush(self) -> None:
            written.append("flush")

    fake = ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    training.tensorboard_logger(tmp_path)(RECORD)
    assert written == [str(tmp_path), ("train/loss", 2.5, 6), ("train/learning_rate", 0.1, 6), "flush"]


def test_weights_and_biases_is_offline_unless_told_otherwise(monkeypatch, tmp_path):
    started, logged = [], []

    def init(**options):
        started.append(options)
        return SimpleNamespace(log=lambda values, step: logged.append((values, step)))

    fake = ModuleType("wandb")
    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    training.wandb_logger("course", tmp_path, name="first")(RECORD)
    assert started == [{"project": "course", "dir": str(tmp_path), "mode": "offline", "name": "first"}]
    assert logged == [({"train/loss": 2.5, "train/learning_rate": 0.1}, 6)]


@pytest.mark.parametrize(
    ("missing", "make", "message"),
    [
        (
            "wandb",
            lambda: training.wandb_logger("x", "y"),
            "wandb_logger needs the package wandb: pip install wandb",
        ),
        (
            "torch.utils.tensorboard",
            lambda: training.tensorboard_logger("x"),
            "needs the package tensorboard: pip",
        ),
    ],
)
def test_a_missing_package_is_one_sentence(monkeypatch, missing, make, message):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=message):
        make()


def test_the_live_plot_draws_in_a_notebook_and_nowhere_else(monkeypatch, capsys):
    updates = []
    handle = SimpleNamespace(update=lambda content: updates.append(content.data))
    display = ModuleType("IPython.display")
    display.HTML, display.display = (
        lambda text: SimpleNamespace(data=text),
        lambda content, display_id: handle,
    )
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    for kernel in (False, True):
        shell = SimpleNamespace(**({"kernel": object()} if kernel else {}))
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        plot = LivePlot(floor=1.0, seconds=3600)
        for step in range(1, 30):
            plot({"kind": "train", "step": step, "loss": 5 - step / 10})
        plot({"kind": "val", "step": 30, "loss": 2.25})
        assert len(updates) == (2 if kernel else 0)
    assert "step 30 · train 2.100 · val 2.250 · floor 1.000" in updates[-1]
    assert capsys.readouterr().out == ""


def test_compiled_runs_store_the_models_own_names(data, tmp_path, monkeypatch):
    calls = []

    def compile(model):
        calls.append(model)
        return lambda *args: model(*args)

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(training, "evaluate", lambda *args: (1.0, 2))
    trainer = Trainer(make_model(), data, replace(CONFIG, compile=True, steps=8), tmp_path)
    trainer.train()
    assert calls == [trainer.state.model]
    assert "model.wte.weight" in load_checkpoint(trainer.latest)[0]


# The course's own run


@pytest.fixture
def small_story_run(data, monkeypatch, tmp_path):
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    stories = SimpleNamespace(**vars(data), tokenizer=SimpleNamespace(vocab_size=V), val_floor_nats=10.0)
    monkeypatch.setattr(training, "story_data", lambda: stories)
    sizes = {"n_positions": T, "n_embd": 8, "n_layer": 1, "n_head": 2}
    settings = {"steps": 12, "batch_size": B, "seq_len": T, "warmup_steps": 2, "checkpoint_every": 4}
    monkeypatch.setattr(training, "_STORY_RUNS", {"quick": ({}, sizes, settings)})
    return tmp_path


def test_the_story_run_is_trained_once_resumed_and_the_same_everywhere(small_story_run):
    model, _, history = training.story_gpt2()
    assert not model.training
    assert history[-1]["kind"] == "val" and history[-1]["step"] == 12
    again, _, same = training.story_gpt2()
    assert same == history, "timings included: nothing ran again"
    elsewhere, _, other = training.story_gpt2(small_story_run / "elsewhere")
    assert without_timings(other) == without_timings(history)
    assert torch.equal(elsewhere.wte.weight, model.wte.weight) and torch.equal(
        again.wte.weight, model.wte.weight
    )
    assert (small_story_run / "home" / "runs").is_dir()


def test_two_callers_share_one_story_run(small_story_run, monkeypatch):
    updates, update = [], Trainer._update
    monkeypatch.setattr(Trainer, "_update", lambda self: updates.append(self.state.step) or update(self))
    results = []
    threads = [threading.Thread(target=lambda: results.append(training.story_gpt2())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(updates) == list(range(12))
    assert json.dumps(results[0][2]) == json.dumps(results[1][2])
