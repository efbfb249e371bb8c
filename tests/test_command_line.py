"""The command line: train, generate, eval, info; progress, Ctrl-C, errors in one sentence."""

import functools
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gptoss_lib import __main__ as command_line
from gptoss_lib import pretraining
from gptoss_lib.__main__ import ProgressLine, find_config, main, packaged_configs, read_config
from gptoss_lib.training import load_checkpoint, read_log

SMALL = {
    "model": {
        "preset": "xs",
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "sliding_window": 16,
    },
    "data": {"source": "stories", "documents": 150, "vocab_size": 300},
    "training": {
        "steps": 12,
        "batch_size": 4,
        "seq_len": 32,
        "warmup_steps": 2,
        "log_every": 1,
        "eval_every": 6,
        "checkpoint_every": 4,
    },
    "init_std": 0.05,
}


@pytest.fixture(autouse=True, scope="module")
def quick_measurement():
    """Spare every run the half second in which the machine is measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "matmul_rate", lambda device, precision: 5e10)
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "small.json"
    path.write_text(json.dumps(SMALL))
    return str(path)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """The folder of a finished run."""
    folder = str(tmp_path_factory.mktemp("runs") / "small")
    assert main(["train", config, "--out", folder]) == 0
    return folder


def test_train_says_how_it_went(config, tmp_path, capsys):
    assert main(["train", config, "--out", str(tmp_path / "run"), "--set", "training.steps=5"]) == 0
    output, progress = capsys.readouterr()
    for word in (
        "5 updates, 640 tokens",
        "nats a token",
        "bits a byte",
        "floor",
        "tokens a second",
        "utilization",
        "MB",
    ):
        assert word in output
    assert "update 5/5" in progress and "val" in progress and "\r" not in progress
    assert json.loads((tmp_path / "run" / "run.json").read_text())["training"]["steps"] == 5


def test_a_second_call_finds_the_run_finished(config, run, capsys):
    before = os.path.getmtime(os.path.join(run, "latest.safetensors"))
    assert main(["train", config, "--out", run]) == 0
    assert os.path.getmtime(os.path.join(run, "latest.safetensors")) == before
    assert "12 updates" in capsys.readouterr().out


def test_the_folder_is_named_after_the_config(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", config, "--set", "training.steps=2"]) == 0
    assert (tmp_path / "runs" / "small" / "latest.safetensors").is_file()


def test_a_changed_config_is_refused(config, run, capsys):
    assert main(["train", config, "--out", run, "--set", "training.learning_rate=0.5"]) == 2
    message = capsys.readouterr().err
    assert "training.learning_rate=0.001" in message and "0.5" in message and "another folder" in message


def test_generate_is_repeatable_and_varied(run, capsys):
    outputs = []
    for seed in ("3", "3", "4"):
        command = ["generate", run, "--prompt", "The boat", "--max-tokens", "12", "--seed", seed]
        assert main([*command, "--temperature", "0.9", "--top-k", "50", "--top-p", "0.95"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]
    assert all(output.startswith("The boat") for output in outputs)
    assert main(["generate", run, "--samples", "3", "--max-tokens", "4", "--checkpoint", "latest"]) == 0
    assert capsys.readouterr().out.count("---") == 2


def test_generate_stops_at_the_end_of_the_context(run, capsys):
    assert main(["generate", run, "--max-tokens", "500", "--temperature", "2"]) == 0
    assert capsys.readouterr().out
    assert main(["generate", run, "--prompt", "boat " * 80]) == 2
    assert "fills the context of 64 tokens" in capsys.readouterr().err


def test_generate_knows_gpt2(config, tmp_path, capsys):
    model = '{"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 40}'
    out = str(tmp_path / "gpt2")
    assert main(["train", config, "--out", out, "--set", f"model={model}", "--set", "training.steps=3"]) == 0
    capsys.readouterr()
    assert main(["generate", out, "--prompt", "The", "--max-tokens", "500"]) == 0
    assert capsys.readouterr().out.startswith("The")
    assert main(["info", out]) == 0
    assert "2, width 24, 3 heads" in capsys.readouterr().out


def test_eval_gives_the_loss_of_the_log(run, capsys):
    log = read_log(Path(run, "log.jsonl"))
    assert main(["eval", run, "--checkpoint", "latest"]) == 0
    output = capsys.readouterr().out
    assert f"{log[-1]['loss']:.4f} nats a token, {log[-1]['bits_per_byte']:.4f} bits a byte" in output
    assert "the grammar itself" in output


def test_eval_notices_other_data(run, tmp_path, capsys):
    for path in os.listdir(run):
        (tmp_path / path).write_bytes(Path(run, path).read_bytes())
    values = json.loads((tmp_path / "run.json").read_text())
    values["data"]["vocab_size"] = 290
    (tmp_path / "run.json").write_text(json.dumps(values))
    assert main(["eval", str(tmp_path)]) == 2
    assert "another tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpt-oss-20b", ("20,914,757,184", "3,608,307,264", "32 a layer, 4 at work", "12 of 24")),
        ("compact", ("202,934,088",)),
        ("nano", ("588,490,284", "4 a layer, 1 at work")),
        ("stories-quick", ("1,354,136", "611,480", "2,048")),
        ("stories-quick-gpt2", ("644,424", "611,656")),
    ],
)
def test_info_knows_presets_and_configs(name, words, capsys):
    assert main(["info", name]) == 0
    output = capsys.readouterr().out
    for word in (*words, "FLOPs a token", "to train", "KV cache"):
        assert word in output


def test_info_knows_runs_and_lengths(run, capsys):
    assert main(["info", run]) == 0
    output = capsys.readouterr().out
    assert "300" in output and "in sequences of 32" in output
    assert main(["info", "gpt-oss-20b", "--length", "131072"]) == 0
    assert "in sequences of 131,072" in capsys.readouterr().out
    assert main(["info", "stories-quick", "--set", "model.num_hidden_layers=4"]) == 0
    assert "4, width 128" in capsys.readouterr().out


def test_settings_can_be_changed(config):
    changes = [
        "training.steps=7",
        "model.hidden_size=26",
        "data.paths=[]",
        "data.tokenizer=null",
        "training.precision=bf16",
        "seed=5",
    ]
    run = read_config(config, changes)
    assert (run.training.steps, run.model["hidden_size"], run.training.precision, run.seed) == (
        7,
        26,
        "bf16",
        5,
    )
    assert read_config("nano", ["model.num_hidden_layers=2"]).model == {
        "preset": "nano",
        "num_hidden_layers": 2,
    }
    assert find_config(config).name == "small.json"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere"], "neither a file nor one of the library's configs"),
        (["train", "stories-quick", "--set", "training.steps"], "has no '='"),
        (["train", "stories-quick", "--set", "training.stepz=3"], "no setting 'stepz'"),
        (["train", "stories-quick", "--set", "seed.x=3"], "reaches into 'seed'"),
        (["train", "stories-quick", "--set", "training.steps=0"], "steps is 0"),
        (
            ["train", "stories-quick", "--set", "data.source=files", "--set", "data.paths=nothing.txt"],
            "nothing.txt",
        ),
        (["generate", "nowhere"], "no run in 'nowhere'"),
        (["eval", "nowhere"], "no run in 'nowhere'"),
        (["info", "nowhere"], "neither a run's folder, nor a preset"),
    ],
)
def test_an_error_is_one_sentence(arguments, message, tmp_path, capsys):
    extra = ["--out", str(tmp_path / "run")] if arguments[0] == "train" else []
    assert main([*arguments, *extra]) == 2
    output, error = capsys.readouterr()
    line = error.strip().splitlines()[-1]
    assert line.startswith("error: ") and message in line and "Traceback" not in error and not output


def test_a_broken_file_is_an_error_not_a_traceback(run, tmp_path, capsys):
    (tmp_path / "broken.json").write_text("{")
    assert main(["train", str(tmp_path / "broken.json")]) == 2
    assert "not valid JSON" in capsys.readouterr().err
    for path in os.listdir(run):
        (tmp_path / path).write_bytes(Path(run, path).read_bytes()[:5000])
    (tmp_path / "best.safetensors").write_bytes(b"nonsense")
    assert main(["generate", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_config_on_a_machine_without_one(tmp_path, capsys):
    assert main(["train", "compact", "--out", str(tmp_path / "run")]) == 2
    assert "finds no GPU" in capsys.readouterr().err


def test_help_names_every_command_and_config(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    output = capsys.readouterr().out
    assert all(word in output for word in ("train", "generate", "eval", "info", *packaged_configs()))
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2


# ---------- Progress ----------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def records(count=3):
    for step in range(1, count + 1):
        yield {
            "kind": "train",
            "step": step,
            "tokens": 100 * step,
            "loss": 3.0,
            "nats": 2.5,
            "max_load": 1.5,
            "seconds": 0.5 * step,
        }
    yield {"kind": "val", "step": count, "loss": 2.0, "bits_per_byte": 1.0, "seconds": 9.0}


def test_a_terminal_has_one_line_that_changes(monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    terminal = Terminal()
    progress = ProgressLine(10, terminal)
    for record in [*records(), {**next(records()), "step": 4, "tokens": 400, "seconds": 2.0}]:
        progress(record)
    progress.close()
    text = terminal.getvalue()
    assert text.count("\n") == 1 and text.endswith("\n")
    assert "update 3/10 · loss 2.500 · busiest expert 1.5× · 200 tokens/s · 0:04 left" in text
    assert text.splitlines()[-1].split("\r")[-1].rstrip().endswith("val 2.000 (1.000 bits/byte)")
    assert len({len(line) for line in text.strip("\n").split("\r")[1:]}) == 1, (
        "each line covers the one before"
    )


def test_a_file_has_plain_lines():
    stream = io.StringIO()
    progress = ProgressLine(3, stream, seconds=3600)
    for record in records():
        progress(record)
    progress.close()
    lines = stream.getvalue().splitlines()
    assert [line.split(" · ")[0] for line in lines] == ["update 1/3", "update 3/3", "update 3/3"]
    assert "val 2.000" in lines[-1] and "\r" not in stream.getvalue()


# ---------- Ctrl-C ----------


def test_interrupted_in_process_it_says_what_is_safe(config, tmp_path, monkeypatch, capsys):
    def interrupt(self, record):
        if record["step"] == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(command_line.ProgressLine, "__call__", interrupt)
        assert main(["train", config, "--out", str(tmp_path)]) == 130
    assert "safe up to update 4" in capsys.readouterr().err
    assert main(["train", config, "--out", str(tmp_path)]) == 0


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_control_c_leaves_a_run_that_goes_on(config, run, tmp_path):
    command = [sys.executable, "-m", "gptoss_lib", "train", config, "--out", str(tmp_path / "run")]
    command += ["--set", "training.steps=4000", "--set", "training.eval_every=0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # What a shell starts in the background ignores Ctrl-C, and so would what the tests start.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, preexec_fn=heed, **pipes) as process:
        latest = tmp_path / "run" / "latest.safetensors"
        while process.poll() is None and not (latest.exists() and load_checkpoint(latest)[1]["step"] >= 8):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error and "the same command goes on" in error and not output
    step = load_checkpoint(latest)[1]["step"]
    assert f"safe up to update {step};" in error
    assert main(["info", str(tmp_path / "run")]) == 0
