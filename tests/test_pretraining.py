"""Pretraining: the router losses, the run's config, the run folder, resume, speed."""

import dataclasses
import json
import math
import threading
import time

import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gptoss_lib import pretraining
from gptoss_lib.__main__ import CONFIGS, find_config, main, packaged_configs
from gptoss_lib.config import PRESETS, GPTOSSConfig, count_parameters, flops_per_token
from gptoss_lib.data import Batches, story_data
from gptoss_lib.gpt2 import GPT2, GPT2Config
from gptoss_lib.model import GPTOSS
from gptoss_lib.pretraining import (
    DataConfig,
    RunConfig,
    build_model,
    gptoss_loss,
    load_run,
    matmul_rate,
    model_config,
    peak_memory,
    prepare_data,
    pretrain,
    record_run,
    recorded_runs,
    run_speed,
    training_flops,
)
from gptoss_lib.training import TrainingConfig, learning_rate_at, load_checkpoint, parameter_groups, read_log

TINY = {
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "sliding_window": 9,
    "max_position_embeddings": 48,
    "rope_scaling": None,
    "tie_word_embeddings": True,
}
TINY_GPT2 = {"n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 40, "n_inner": 28}
TEXT = DataConfig(documents=150, vocab_size=300)
TRAINING = TrainingConfig(
    steps=14,
    batch_size=4,
    seq_len=32,
    warmup_steps=3,
    learning_rate=3e-3,
    log_every=1,
    eval_every=7,
    checkpoint_every=5,
)
TINY_RUN = RunConfig(model=TINY, data=TEXT, training=TRAINING, balance_coef=0.05, z_coef=0.003, init_std=0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run: its folder, model, data and history."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return folder, *pretrain(TINY_RUN, folder)


# ---------- The loss ----------


def test_the_metrics_are_what_counting_by_hand_gives():
    torch.manual_seed(3)
    model = build_model(dataclasses.replace(TINY_RUN, init_std=0.4), 61)
    input_ids, labels = torch.randint(61, (2, 3, 11))
    labels[0, 4:7] = -100
    loss, metrics = gptoss_loss(balance_coef=0.3, z_coef=0.02)(model, input_ids, labels)
    nats = F.cross_entropy(model(input_ids).flatten(0, 1), labels.flatten())
    _, layers = model(input_ids, labels=labels)
    tokens, E, K = input_ids.numel(), 5, 2
    balances, zs, loads, entropies = [], [], [], []
    for logits in layers:
        counts = [0] * E
        for row in logits.tolist():
            for expert in sorted(range(E), key=lambda e: -row[e])[:K]:
                counts[expert] += 1
        p = torch.exp(logits) / torch.exp(logits).sum(-1, keepdim=True)
        balances.append(E * sum(counts[e] / tokens * p[:, e].mean().item() for e in range(E)))
        zs.append(sum(math.log(sum(map(math.exp, row))) ** 2 for row in logits.tolist()) / tokens)
        loads.append(max(counts) / tokens * E / K)
        entropies.append(-(p * p.log()).sum(-1).mean().item())
    expected = {
        "nats": nats.item(),
        "balance": sum(balances) / 3,
        "z": sum(zs) / 3,
        "max_load": max(loads),
        "router_entropy": sum(entropies) / 3,
    }
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-5), name
        assert not metrics[name].requires_grad
    assert loss.item() == pytest.approx(nats.item() + 0.3 * sum(balances) / 3 + 0.02 * sum(zs) / 3, rel=1e-5)


def test_the_coefficients_decide_what_the_routers_feel():
    model = build_model(TINY_RUN, 61)
    input_ids, labels = torch.randint(61, (2, 3, 11), generator=torch.Generator().manual_seed(0))
    routers = [layer.mlp.router.weight for layer in model.model.layers]

    def grads(**coefficients):
        return torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(
                    gptoss_loss(**coefficients)(model, input_ids, labels)[0], routers
                )
            ]
        )

    text, pushed, twice = grads(balance_coef=0), grads(balance_coef=0.5), grads(balance_coef=1.0)
    torch.testing.assert_close(twice - text, 2 * (pushed - text), rtol=1e-3, atol=1e-7)
    assert (pushed - text).norm() > 0
    assert (grads(balance_coef=0, z_coef=0.5) - text).norm() > 0


def test_the_loss_takes_a_wrapped_model():
    class Wrapper(nn.Module):  # as DistributedDataParallel
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *args, **kwargs):
            return self.module(*args, **kwargs)

    model = build_model(TINY_RUN, 61)
    batch = torch.randint(61, (2, 3, 11), generator=torch.Generator().manual_seed(0))
    assert torch.equal(gptoss_loss()(Wrapper(model), *batch)[0], gptoss_loss()(model, *batch)[0])


# ---------- The config ----------


def test_a_config_survives_json(tmp_path):
    TINY_RUN.to_json(tmp_path / "a.json")
    again = RunConfig.from_json(tmp_path / "a.json")
    assert again.to_dict() == TINY_RUN.to_dict()
    assert (again.training, again.data, again.z_coef) == (TINY_RUN.training, TEXT, 0.003)
    TINY_RUN.to_json(tmp_path)
    assert RunConfig.from_json(tmp_path).to_dict() == TINY_RUN.to_dict()
    assert "seed" not in json.loads((tmp_path / "a.json").read_text())["training"]


def test_a_run_has_one_seed():
    run = RunConfig(model=TINY, training=dataclasses.replace(TRAINING, seed=3), seed=7)
    assert run.training.seed == 7
    assert dataclasses.replace(run, seed=8).training.seed == 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": "xs"}, "no setting 'modle'"),
        ({"training": {"learing_rate": 1}}, "training has no setting 'learing_rate'"),
        ({"training": {"steps": "many"}}, "steps is 'many'; expected int"),
        ({"training": {"steps": True}}, "steps is True"),
        ({"training": {"steps": 3.5}}, "steps is 3.5"),
        ({"training": {"seed": 1}}, "one seed"),
        ({"training": {"steps": 5, "warmup_steps": 9}}, "warmup_steps is 9"),
        ({"training": 5}, "training is 5"),
        ({"data": {"source": "web"}}, "data.source is 'web'"),
        ({"data": {"source": "files"}}, "needs one or more"),
        ({"data": {"source": "stories", "paths": ["a.txt"]}}, "takes none"),
        ({"data": {"source": "tinystories", "paths": ["a", "b"]}}, "takes at most one"),
        ({"data": {"documents": 0}}, "data.documents is 0"),
        ({"balance_coef": -0.1}, "balance_coef is -0.1"),
        ({"z_coef": -1}, "z_coef is -1"),
        ({"model": "huge"}, "no preset 'huge'"),
        ({"model": {"preset": "xs", "n_embd": 3}}, "no setting 'n_embd'"),
        ({"model": {"n_embd": 30, "n_head": 4}}, "not a multiple"),
        ({"model": {"n_embd": 32, "n_head": 4, "depth": 3}}, "a GPT-2 has no setting 'depth'"),
        ({"model": {"rope_scaling": {"factr": 3}}}, "rope_scaling has no setting 'factr'"),
        ({"training": {"seq_len": 129}}, "reads at most 128"),
        ([1], "a run is [1]"),
    ],
)
def test_a_wrong_config_is_refused(values, message):
    with pytest.raises(ValueError) as error:
        RunConfig.from_dict(values)
    assert message in str(error.value)


def test_a_file_that_is_no_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{'model': 1}")
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        RunConfig.from_json(tmp_path / "a.json")


def test_the_architecture_of_a_run():
    def config_of(model, **rest):
        return model_config(
            RunConfig(model=model, training=dataclasses.replace(TRAINING, seq_len=8), **rest), 77
        )

    assert config_of("xs") == dataclasses.replace(GPTOSSConfig.preset("xs"), vocab_size=77)
    changed = config_of({"preset": "xs", "num_hidden_layers": 3, "sliding_window": 5}, init_std=0.3)
    assert changed.layer_types == ("sliding_attention", "full_attention", "sliding_attention")
    assert (changed.sliding_window, changed.initializer_range, changed.hidden_size) == (5, 0.3, 64)
    assert config_of(TINY).rope_scaling is None
    assert (
        config_of(
            {**TINY, "max_position_embeddings": 90, "rope_scaling": {"original_max_position_embeddings": 30}}
        ).rope_scaling.factor
        == 32
    )
    assert config_of(TINY_GPT2, init_std=0.3) == GPT2Config(vocab_size=77, initializer_range=0.3, **TINY_GPT2)


def test_the_seed_decides_the_weights_and_nothing_else():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    models = [build_model(dataclasses.replace(TINY_RUN, seed=seed), 61) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    a, b, c = (nn.utils.parameters_to_vector(model.parameters()).detach() for model in models)
    assert torch.equal(a, b) and not torch.equal(a, c)
    gpt2 = build_model(RunConfig(model=TINY_GPT2, training=TRAINING, init_std=0.5), 61)
    assert gpt2.wpe.weight.std().item() == pytest.approx(0.05, rel=0.1)
    assert gpt2.wte.weight.std().item() == pytest.approx(0.5, rel=0.1)


def test_jitter_and_the_frozen_router_reach_the_model():
    run = RunConfig(
        model={**TINY, "num_experts_per_tok": 1}, training=TRAINING, jitter=0.1, allow_frozen_router=True
    )
    moe = build_model(run, 61).model.layers[1].mlp
    assert moe.allow_frozen_router and moe.router.jitter == 0.1


@pytest.mark.parametrize("name", packaged_configs())
def test_a_packaged_config_builds(name):
    run = RunConfig.from_json(find_config(name))
    config = model_config(run)
    with torch.device("meta"):
        model = build_model(run, config.vocab_size)
    if isinstance(config, GPTOSSConfig):
        assert sum(p.numel() for p in model.parameters()) == count_parameters(config).total
        assert run.allow_frozen_router == (config.num_experts_per_tok == 1)
    assert run.to_dict().items() >= {"seed": 0}.items()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds(name):
    run = RunConfig(model=name, training=dataclasses.replace(TRAINING, seq_len=8))
    with torch.device("meta"):
        model = build_model(run, PRESETS[name].vocab_size)
    assert sum(p.numel() for p in model.parameters()) == count_parameters(PRESETS[name]).total


def test_the_quick_runs_have_the_same_active_parameters():
    oss, gpt2 = (RunConfig.from_json(find_config(f"stories-quick{name}")) for name in ("", "-gpt2"))
    assert (oss.training, oss.data, oss.init_std, oss.seed) == (
        gpt2.training,
        gpt2.data,
        gpt2.init_std,
        gpt2.seed,
    )
    model = build_model(gpt2, 2048)
    active = sum(p.numel() for p in model.parameters()) - model.wpe.weight.numel()
    assert active == pytest.approx(count_parameters(model_config(oss, 2048)).active, rel=1e-3)


# ---------- The data ----------


def test_stories_are_the_course_corpus():
    assert prepare_data(TEXT).directory == story_data(150, 300).directory


def test_files_of_every_kind(tmp_path):
    import pyarrow
    import pyarrow.parquet

    texts = [f"Document {n} tells of {n * n} sheep." for n in range(90)]
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(texts))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"story": text}) + "\n" for text in texts))
    pyarrow.parquet.write_table(pyarrow.table({"story": texts}), tmp_path / "c.parquet")
    streams = []
    for name in ("a.txt", "b.jsonl", "c.parquet"):
        config = DataConfig("files", str(tmp_path / name), field="story", val_fraction=0.2, vocab_size=280)
        data = prepare_data(config)
        assert prepare_data(config).directory == data.directory
        assert data.train_documents + data.val_documents == 90 and data.val_floor_nats is None
        streams.append(data.train.tolist())
    assert streams[0] == streams[1] == streams[2]


def test_fewer_documents_and_a_named_tokenizer(tmp_path):
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(f"Document {n} is short." for n in range(90)))
    saved = tmp_path / "tokenizer.json"
    story_data(150, 300).tokenizer.save(saved)
    everything = DataConfig("files", str(tmp_path / "a.txt"), val_fraction=0.2, tokenizer=str(saved))
    few = prepare_data(dataclasses.replace(everything, documents=40))
    assert few.train_documents + few.val_documents == 40
    assert few.tokenizer.vocab_size == 300
    assert few.directory != prepare_data(everything).directory
    stories = prepare_data(DataConfig(documents=150, tokenizer=str(saved)))
    assert stories.val_floor_nats == pytest.approx(story_data(150, 300).val_floor_nats)


# ---------- The run ----------


def test_a_run_is_a_loop_written_by_hand(finished):
    _, model, data, history = finished
    by_hand, batches = build_model(TINY_RUN, 300), Batches(data.train, 4, 32, seed=0)
    optimizer = torch.optim.AdamW(parameter_groups(by_hand, 0.1), betas=(0.9, 0.95), eps=1e-8, fused=True)
    losses = []
    for step in range(14):
        loss, _ = gptoss_loss(0.05, 0.003)(by_hand, *next(batches))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, TRAINING)
        optimizer.step()
        losses.append(loss.item())
    train = [record for record in history if record["kind"] == "train"]
    assert [record["loss"] for record in train] == losses
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), by_hand.parameters(), strict=True))
    assert train[0]["nats"] == pytest.approx(math.log(300), rel=0.05)
    assert not model.training


def test_a_run_that_was_stopped_ends_with_the_same_bits(finished, tmp_path):
    _, whole, _, history = finished

    def stop(record):
        if record["step"] == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(TINY_RUN, tmp_path, [stop])
    assert load_checkpoint(tmp_path / "latest.safetensors")[1]["step"] == 10
    resumed, _, again = pretrain(TINY_RUN, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))

    def without_clock(records):
        return [{name: value for name, value in r.items() if name != "seconds"} for r in records]

    assert without_clock(again) == without_clock(history)


def test_a_finished_run_is_loaded(finished):
    folder, model, _, history = finished
    seen = []
    again, _, records = pretrain(TINY_RUN, folder, [seen.append])
    assert records == history == read_log(folder / "log.jsonl") and not seen
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_the_folder_is_enough_to_use_the_model(finished, monkeypatch, tmp_path):
    folder, model, data, _ = finished
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "nothing"))
    loaded, tokenizer, run = load_run(folder, checkpoint="latest")
    input_ids = torch.tensor([tokenizer.encode("The little boat")])
    assert torch.equal(loaded(input_ids), model(input_ids)) and not loaded.training
    assert run.to_dict() == TINY_RUN.to_dict()
    assert tokenizer.encode_batch(["a boat"]) == data.tokenizer.encode_batch(["a boat"])
    assert GPTOSSConfig.from_json(folder) == model.config
    best, _, _ = load_run(folder)
    _, state = load_checkpoint(folder / "best.safetensors")
    assert state["step"] in (7, 14) and isinstance(best, GPTOSS)


def test_the_latest_weights_stand_in_for_the_best(finished, tmp_path):
    folder, _, _, _ = finished
    for name in ("run.json", "tokenizer.json", "latest.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert isinstance(load_run(tmp_path)[0], GPTOSS)
    with pytest.raises(ValueError, match="checkpoint is 'last'"):
        load_run(tmp_path, checkpoint="last")
    with pytest.raises(FileNotFoundError, match="no run in"):
        load_run(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": dataclasses.replace(TRAINING, learning_rate=1e-3)}, "training.learning_rate=0.003"),
        ({"balance_coef": 0.0}, "balance_coef=0.05, but this one has 0.0"),
        ({"model": {**TINY, "hidden_size": 26}}, "model.hidden_size=24"),
        (
            {"model": {name: value for name, value in TINY.items() if name != "sliding_window"}},
            "model.sliding_window=9",
        ),
        ({"model": TINY_GPT2}, "model"),
        ({"data": dataclasses.replace(TEXT, seed=1)}, "data.seed=0"),
        ({"seed": 2}, "seed=0, but this one has 2"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(finished, change, message):
    folder = finished[0]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError) as error:
        pretrain(dataclasses.replace(TINY_RUN, **change), folder)
    assert message in str(error.value) and "another folder" in str(error.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_may_change_may_change(finished):
    folder, _, _, history = finished
    run = dataclasses.replace(TINY_RUN, training=dataclasses.replace(TRAINING, checkpoint_every=3))
    assert pretrain(run, folder)[2] == history


def test_a_changed_tokenizer_is_noticed(finished, tmp_path):
    folder, _, _, _ = finished
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    story_data(151, 290).tokenizer.save(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="not the tokenizer of this run's data"):
        pretrain(TINY_RUN, tmp_path)


def test_a_second_process_waits_and_says_so(finished, tmp_path, capsys):
    folder = tmp_path / "busy"
    folder.mkdir()
    lock = FileLock(folder / "lock")
    lock.acquire()
    results = []
    run = dataclasses.replace(TINY_RUN, training=dataclasses.replace(TRAINING, steps=3))
    worker = threading.Thread(target=lambda: results.append(pretrain(run, folder)))
    worker.start()
    time.sleep(0.3)
    assert not results
    lock.release()
    worker.join(timeout=120)
    assert results and "waiting for it" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    run = dataclasses.replace(TINY_RUN, training=dataclasses.replace(TRAINING, device="cuda"))
    with pytest.raises(ValueError, match="finds no GPU"):
        pretrain(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_gpt2_trains_in_the_same_way(tmp_path):
    run = RunConfig(
        model=TINY_GPT2, data=TEXT, training=dataclasses.replace(TRAINING, steps=4), init_std=0.05
    )
    model, _, history = pretrain(run, tmp_path)
    assert isinstance(model, GPT2) and "max_load" not in history[0]
    assert GPT2Config.from_json(tmp_path / "config.json") == model.config
    assert isinstance(load_run(tmp_path)[0], GPT2)


def test_a_frozen_router_must_be_allowed(tmp_path):
    run = dataclasses.replace(TINY_RUN, model={**TINY, "num_experts_per_tok": 1})
    with pytest.raises(ValueError, match="allow_frozen_router=True"):
        pretrain(run, tmp_path)


# ---------- Speed and records ----------


def test_the_flops_of_training_are_those_that_pytorch_counts():
    config = GPT2Config(vocab_size=53, n_positions=40, n_embd=24, n_layer=3, n_head=4, n_inner=28)
    T = 16
    with FlopCounterMode(display=False) as counter:
        GPT2(config)(torch.zeros(1, T, dtype=torch.int64))
    counts = counter.get_flop_counts()["Global"]  # whether attention is in it depends on the kernel
    products = sum(count for name, count in counts.items() if "attention" not in str(name))
    causal = 4 * 3 * 24 * T * (T + 1) / 2  # scores and weighted sums: each token sees itself and those before
    assert training_flops(config, T) * T == pytest.approx(3 * (products + causal))
    oss = GPTOSSConfig.preset("xs")
    assert training_flops(oss, 100) == flops_per_token(oss, 100, mean=True).training


def test_utilization_is_flops_over_what_the_machine_reaches(monkeypatch):
    monkeypatch.setattr(pretraining, "matmul_rate", lambda device, precision: 5e9)
    config = GPTOSSConfig.preset("xs")
    log = [
        {"kind": "train", "tokens": 1000, "seconds": 2.0},
        {"kind": "train", "tokens": 4000, "seconds": 7.0},
        {"kind": "val", "seconds": 8.0},
    ]
    speed = run_speed(TINY_RUN, config, log)
    flops = 500 * flops_per_token(config, 32, mean=True).training
    assert speed == pytest.approx(
        {"tokens_per_second": 500, "flops_per_second": flops, "matmul_rate": 5e9, "utilization": flops / 5e9}
    )


def test_the_machine_is_measured():
    assert 1e8 < matmul_rate(size=256) < 1e14
    assert 5e7 < peak_memory() < 1e12


def test_a_record_can_be_read_and_repeated(finished, tmp_path):
    _, _, _, history = finished
    path = tmp_path / "runs.jsonl"
    record_run(path, TINY_RUN, history)
    record_run(path, dataclasses.replace(TINY_RUN, seed=4), history[:2])
    (first, log), (second, short) = recorded_runs(path)
    assert first.to_dict() == TINY_RUN.to_dict() and second.seed == 4
    assert [record["step"] for record in log] == [record["step"] for record in history] and len(short) == 2
    assert log[-1]["loss"] == pytest.approx(history[-1]["loss"], rel=1e-4)
    head = json.loads(path.read_text().splitlines()[0])
    assert head["versions"]["torch"] == torch.__version__ and isinstance(head["machine"], str)


def test_the_runs_that_the_chapter_shows_are_its_configs():
    runs = recorded_runs("16_stories")
    oss, gpt2 = (RunConfig.from_json(find_config(f"stories-quick{name}")) for name in ("", "-gpt2"))
    wanted = [dataclasses.replace(run, seed=seed) for run in (oss, gpt2) for seed in (0, 1, 2)]
    found = [run.to_dict() for run, _ in runs]
    assert sorted(map(json.dumps, found)) == sorted(json.dumps(run.to_dict()) for run in wanted)
    assert all(log[-1]["kind"] == "val" and log[-1]["step"] == oss.training.steps for _, log in runs)


# ---------- From raw text to a story ----------


def test_tinystories_from_raw_text_to_a_generated_story(shared, tmp_path, capsys):
    changes = {
        "data.source": '"files"',
        "data.paths": json.dumps([str(shared / "data" / "tinystories_sample.txt")]),
        "data.documents": "null",
        "data.vocab_size": "1000",
        "data.tokenizer_documents": "400",
        "model.hidden_size": "32",
        "model.num_hidden_layers": "2",
        "training.steps": "40",
        "training.learning_rate": "0.01",
        "training.warmup_steps": "5",
        "training.eval_every": "0",
        "training.seq_len": "64",
    }
    settings = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    out = str(tmp_path / "run")
    assert main(["train", "tinystories-xs", *settings, "--out", out]) == 0
    history = read_log(tmp_path / "run" / "log.jsonl")
    assert history[-1]["loss"] < history[0]["nats"] - 1
    capsys.readouterr()
    assert main(["generate", out, "--prompt", "Once upon a time", "--max-tokens", "30"]) == 0
    story = capsys.readouterr().out
    assert story.startswith("Once upon a time") and len(story) > 30


def test_the_configs_are_package_data():
    assert {"stories-quick", "stories-quick-gpt2", "tinystories-xs", "compact", "mini", "nano"} == set(
        packaged_configs()
    )
    assert all((CONFIGS / f"{name}.json").is_file() for name in packaged_configs())
