import platform
import subprocess
import sys

import pytest

from gptoss_lib import settings


def test_defaults(monkeypatch, tmp_path):
    for name in ("GPTOSS_PROFILE", "GPTOSS_HOME", "GPTOSS_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(settings.Path, "home", lambda: tmp_path)
    assert settings.profile() == "quick"
    assert settings.home() == tmp_path / ".cache" / "gptoss"
    assert settings.data_path() is None


def test_variables_are_read(monkeypatch, tmp_path):
    monkeypatch.setenv("GPTOSS_PROFILE", "full")
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GPTOSS_DATA", str(tmp_path))
    assert settings.profile() == "full"
    assert settings.home() == tmp_path / "home"
    assert settings.data_path() == tmp_path


def test_wrong_values_get_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("GPTOSS_PROFILE", "fast")
    with pytest.raises(ValueError, match=r"'fast'; set it to 'quick' or 'full'"):
        settings.profile()
    monkeypatch.setenv("GPTOSS_DATA", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="does not exist; point it at a file or folder"):
        settings.data_path()
    monkeypatch.setenv("GPTOSS_ONEDNN", "no")
    with pytest.raises(ValueError, match="'no'; set it to 0 or 1"):
        settings.onednn()


@pytest.mark.parametrize("value, expected", [("", True), ("1", True), ("0", False)])
def test_onednn(monkeypatch, value, expected):
    monkeypatch.setenv("GPTOSS_ONEDNN", value)
    assert settings.onednn() is expected


TEN_TENSORS = """
import resource
from gptoss_lib.settings import keep_memory
{call}
import torch
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for round in range(2):
    before = faults()
    for _ in range(10):
        torch.ones(10_000_000)  # 40 MB, more than the C library ever keeps by itself
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_kept_memory_is_not_taken_from_the_system_again():
    def page_faults(call):
        command = [sys.executable, "-c", TEN_TENSORS.format(call=call)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert page_faults("") > 50_000  # ten times 40 MB in pages of 4 KiB
    assert page_faults("assert keep_memory()") < 2_000
