# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Pretraining
#
# All parts are on the table: text, tokens, a trainer that survives being killed, and since the last chapter the whole
# model. Now you put them together and train a GPT-OSS. You describe the run in one small file, watch it live, measure how
# far it stays above the best possible loss, hold it against a GPT-2 of the same active size, and look into its routers.
# The same command trains the models that need a GPU.
#
# **You will**
#
# - write down a training run so completely that anybody can repeat it;
# - put the router losses to work, and see why the coefficient in a published config is not the one to train with;
# - train a compact GPT-OSS live, and read its loss, its bits per byte and the load of its experts;
# - kill a run half-way and prove that it ends with the same bits;
# - measure how much of your machine a run really uses.
#
# **Time:** 75 minutes. **Hardware:** any CPU; the run takes about a minute on one core.

# %% tags=["setup"]

# %%
#| export
"""A training run that one small file describes, from raw text to a model in a folder of its own.

GPT-2's loss is the cross-entropy alone. Here every layer's router adds a balancing term, and the log
says how evenly the experts work. Everything that decides a run stands in its :class:`RunConfig`.
"""

import dataclasses
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from hashlib import sha256
from importlib.resources import files
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from gptoss_lib.config import GPTOSSConfig, RopeScaling, flops_per_token
from gptoss_lib.data import (
    FileSource,
    GrammarSource,
    TinyStoriesSource,
    TokenData,
    prepare,
    story_data,
    train_tokenizer,
)
from gptoss_lib.gpt2 import GPT2, GPT2Config
from gptoss_lib.model import GPTOSS
from gptoss_lib.moe import expert_load, load_balancing_loss, router_z_loss
from gptoss_lib.products import product
from gptoss_lib.settings import home
from gptoss_lib.stories import StoryGrammar
from gptoss_lib.tokenizer import BPETokenizer, get_tokenizer
from gptoss_lib.training import (
    MAY_CHANGE,
    Logger,
    Trainer,
    TrainingConfig,
    load_weights,
    next_token_loss,
)

# %% tags=["hide-input"]
import contextlib
import io
import math
import subprocess
import tempfile

from gptoss_lib import generation
from gptoss_lib.__main__ import find_config, main
from gptoss_lib.cache import KVCache
from gptoss_lib.config import count_parameters, gpt2_parameters
from gptoss_lib.data import Batches, bits_per_byte
from gptoss_lib.figures import COLORS, CYCLE, arrow, box, new_figure, show
from gptoss_lib.stories import StoryError
from gptoss_lib.training import load_checkpoint, learning_rate_at, parameter_groups

scratch = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Why
#
# In [chapter 06](06_training.ipynb) a function called `story_gpt2` trained the course's GPT-2, and everything about the
# run was written into that function. That is fine for one run. Now there will be many: other sizes, other seeds, other
# text, one part of the model switched off. If each is a script that somebody edited, nobody can say later which edit made
# the difference. So a run becomes **data**: a small file that says everything which decides the result, and one program
# that carries it out.
#
# The second reason is the router. A GPT-2 has one loss. A GPT-OSS has one loss about the text and one about its experts,
# and their balance is a decision too. It has to be visible in the file and in the log.

# %% tags=["hide-input"]
fig, ax = new_figure(7.2, 2.7)
for x, y, width, text, color in (
    (0.0, 1.6, 1.3, "a config\nmodel · data\ntraining · seed", "grey"),
    (2.0, 2.3, 1.3, "text\ngrammar, files", "green"),
    (3.8, 2.3, 1.3, "tokens\nprepared once", "green"),
    (2.0, 0.9, 1.3, "fresh model\nfrom the seed", "blue"),
    (3.8, 0.9, 1.3, "Trainer\n+ router losses", "blue"),
    (5.7, 1.6, 1.5, "a run folder\nconfig, tokenizer\nlog, checkpoints", "orange"),
):
    box(ax, x, y - 0.4, width, 0.9, text, color, fontsize=9)
for start, end in (
    ((1.3, 1.8), (2.0, 2.35)),
    ((1.3, 1.5), (2.0, 0.95)),
    ((3.3, 2.35), (3.8, 2.35)),
    ((3.3, 0.95), (3.8, 0.95)),
    ((4.45, 1.9), (4.45, 1.4)),
    ((5.1, 1.0), (5.7, 1.5)),
    ((5.7, 1.3), (5.1, 0.8)),
):
    arrow(ax, start, end)
ax.set(xlim=(-0.1, 7.3), ylim=(0.3, 2.95))
ax.axis("off")
show(
    fig,
    alt="A config leads to text, which becomes tokens, and to a fresh model. The trainer takes tokens and model and "
    "fills a run folder with config, tokenizer, log and checkpoints; from the folder it can go on.",
)

# %% [markdown]
# ## What a run is
#
# Two small objects. The first says which text, and how it becomes tokens. The second has the model, the data, the
# `TrainingConfig` of chapter 06, the router's coefficients, and **one** seed for the weights and for the order of the
# batches.
#
# Two rules make such a file trustworthy. It is **strict**: a key that nobody reads is an error, because a misspelled
# `learing_rate` would otherwise train with the default and never say so. And it is **complete**: `to_dict` writes the
# defaults too, so that a run can be repeated after a default has changed.


# %%
#| export
@dataclass(frozen=True)
class DataConfig:
    """Which text a run learns from, and how it becomes tokens.

    Raises:
        ValueError: if a value makes no sense.
    """

    source: str = "stories"  # "stories" (the grammar), "tinystories" or "files"
    paths: tuple[str, ...] = ()  # txt, jsonl or parquet files, folders or patterns; TinyStories on disk
    field: str = "text"  # the field of a JSON line, or the Parquet column, that holds the text
    documents: int | None = None  # only the first so many; None for all, or 6,000 stories of the grammar
    val_fraction: float = 0.05  # share of the documents that is held out
    tokenizer: str | None = None  # "o200k_harmony", "gpt2", … or a saved file; None trains one
    vocab_size: int = 2048  # V of the tokenizer that is trained
    tokenizer_documents: int = 2000  # how many documents it learns from
    seed: int = 0  # of the grammar's stories

    def __post_init__(self) -> None:
        paths = (self.paths,) if isinstance(self.paths, (str, Path)) else self.paths
        object.__setattr__(self, "paths", tuple(map(str, paths)))
        if self.source not in ("stories", "tinystories", "files"):
            raise ValueError(f"data.source is {self.source!r}; choose 'stories', 'tinystories' or 'files'.")
        few, many, wanted = {
            "stories": (0, 0, "takes none"),
            "tinystories": (0, 1, "takes at most one"),
            "files": (1, math.inf, "needs one or more"),
        }[self.source]
        if not few <= len(self.paths) <= many:
            raise ValueError(
                f"data.paths names {len(self.paths)} places, but the source {self.source!r} {wanted}."
            )
        if self.documents is not None and self.documents < 1:
            raise ValueError(f"data.documents is {self.documents}; choose at least 1, or null for all.")


# %%
#| export
@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run; the same config on the same machine gives the same model.

    ``model`` is the name of a preset, or a dict with fields of ``GPTOSSConfig`` or ``GPT2Config``; the
    key ``preset`` in it fills in the rest from a preset. Its vocabulary is always the tokenizer's.

    Raises:
        ValueError: if a value makes no sense.
    """

    model: str | dict = "xs"  # the architecture
    data: DataConfig = field(default_factory=DataConfig)  # the text
    training: TrainingConfig = field(default_factory=TrainingConfig)  # batches, schedule, precision, device
    balance_coef: float = 0.01  # weight of the load-balancing loss (GPT-OSS only)
    z_coef: float = 0.0  # weight of the router z-loss (GPT-OSS only)
    jitter: float = 0.0  # noise on the routers' inputs (GPT-OSS only)
    allow_frozen_router: bool = False  # train although one expert a token teaches its router nothing
    init_std: float | None = None  # standard deviation of fresh weights; None for the model's own
    seed: int = 0  # of the weights and of the batches

    def __post_init__(self) -> None:
        object.__setattr__(self, "training", dataclasses.replace(self.training, seed=self.seed))
        for name in ("balance_coef", "z_coef"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; the weight of a loss must be 0 or more.")
        context = _context_length(model_config(self))
        if self.training.seq_len > context:
            raise ValueError(
                f"training.seq_len is {self.training.seq_len}, but the model reads at most {context} tokens; "
                "shorten it, or raise max_position_embeddings (n_positions in GPT-2)."
            )

    @classmethod
    def from_json(cls, path: str | Path) -> "RunConfig":
        """Read a run's file, or the ``run.json`` in the folder ``path``.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not JSON, has an unknown key, or a value makes no sense.
        """
        path = Path(path) / "run.json" if Path(path).is_dir() else Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}).") from error
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: dict) -> "RunConfig":
        """Build a run's config from what :meth:`to_dict` returns, or from a part of it.

        Raises:
            ValueError: if a key is unknown or a value makes no sense.
        """
        values = dict(_known(values, cls, "a run"))
        for name, part in (("data", DataConfig), ("training", TrainingConfig)):
            settings = _known(values.get(name, {}), part, name)
            if name == "training" and "seed" in settings:
                raise ValueError("A run has one seed: write it beside training, not inside.")
            values[name] = part(**settings)
        return cls(**values)

    def to_dict(self) -> dict:
        """Return the config as JSON has it."""
        values = json.loads(json.dumps(asdict(self)))
        del values["training"]["seed"]
        return values

    def to_json(self, path: str | Path) -> None:
        """Write the file that :meth:`from_json` reads, to a file or into an existing folder."""
        path = Path(path) / "run.json" if Path(path).is_dir() else Path(path)
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")


def _known(values: object, kind: type, where: str) -> dict:
    """Return ``values`` if they are fields of the dataclass ``kind``, or say what does not fit."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} is {values!r}; it must be an object with settings.")
    known = {each.name: each.type for each in fields(kind)}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{where} has no setting {name!r}; it has {', '.join(known)}.")
        if not _fits(value, known[name]):
            wanted = getattr(known[name], "__name__", known[name])
            raise ValueError(f"{where}: {name} is {value!r}; expected {wanted}.")
    return values


def _fits(value: object, kind: type) -> bool:
    """Say whether a JSON value can stand for a field of this type."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    kinds = [get_origin(each) or each for each in kinds]  # tuple for tuple[str, ...]
    if isinstance(value, bool):
        return bool in kinds
    # JSON has whole numbers for 1.0, lists for tuples, and objects for dataclasses.
    stands_for = {float: (float, int), tuple: (tuple, list, str)}
    return any(
        isinstance(value, (each, dict) if is_dataclass(each) else stands_for.get(each, each))
        for each in kinds
    )


# %% [markdown]
# The architecture comes from a preset, from fields, or from a preset with some fields changed. Whatever it says about the
# vocabulary, the tokenizer decides: a model with more rows than tokens would waste them, one with fewer would crash.
# A config with `n_embd` describes a [GPT-2](05_gpt2.ipynb), so that the baseline is trained by the same code.


# %%
#| export
def model_config(run: RunConfig, vocab_size: int | None = None) -> GPTOSSConfig | GPT2Config:
    """Return the architecture of a run, with the tokenizer's vocabulary where ``vocab_size`` is given.

    Raises:
        ValueError: if the preset or a field does not exist, or a value makes no sense.
    """
    values = {"preset": run.model} if isinstance(run.model, str) else dict(run.model)
    preset = values.pop("preset", None)
    if vocab_size is not None:
        values["vocab_size"] = vocab_size
    if run.init_std is not None:
        values["initializer_range"] = run.init_std
    if "n_embd" in values and preset is None:
        return GPT2Config(**_known(values, GPT2Config, "a GPT-2"))
    _known(values, GPTOSSConfig, "a GPT-OSS")
    if isinstance(values.get("rope_scaling"), dict):
        values["rope_scaling"] = RopeScaling(**_known(values["rope_scaling"], RopeScaling, "rope_scaling"))
    base = GPTOSSConfig() if preset is None else GPTOSSConfig.preset(preset)
    if values.get("num_hidden_layers", base.num_hidden_layers) != base.num_hidden_layers:
        values.setdefault("layer_types", None)  # the pattern goes on for another number of layers
    return dataclasses.replace(base, **values)


def _context_length(config: GPTOSSConfig | GPT2Config) -> int:
    return config.n_positions if isinstance(config, GPT2Config) else config.max_position_embeddings


# %%
#| export
def build_model(run: RunConfig, vocab_size: int) -> nn.Module:
    """Return the fresh model of a run; the run's seed decides its weights.

    A GPT-2's position table starts ten times smaller than its word table (chapter 06).

    Args:
        run: its model, init_std, jitter, allow_frozen_router and seed are used.
        vocab_size: V, the tokenizer's.
    """
    config = model_config(run, vocab_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        if isinstance(config, GPTOSSConfig):
            return GPTOSS(config, run.jitter, run.allow_frozen_router)
        model = GPT2(config)
    with torch.no_grad():
        model.wpe.weight.mul_(0.1)
    return model


# %% [markdown]
# A run for a CPU, in a few lines. The model is the preset *s* of [the map](01_map.ipynb) with half its layers:

# %%
quick = RunConfig.from_json(find_config("stories-quick"))
print(find_config("stories-quick").read_text())

# %% [markdown]
# And what the strictness is good for:

# %%
for wrong in (
    {"training": {"learing_rate": 0.01}},
    {"training": {"steps": "many"}},
    {"training": {"seq_len": 4096}},
    {"data": {"source": "files"}},
    {"balance_coef": -1},
):
    try:
        RunConfig.from_dict(wrong)
    except ValueError as error:
        print(f"{json.dumps(wrong)}\n    {str(error)[:150]}")

# %% [markdown]
# ## From text to tokens
#
# The data come from the grammar, from TinyStories or from your own files, with a tokenizer that is trained on them or a
# published one. They are prepared once, under a name that contains a hash of everything that matters, so that two runs
# on the same text share the files and two runs on different text never do.


# %%
#| export
class _FirstDocuments:
    """The first ``count`` documents of a source."""

    def __init__(self, source: FileSource | TinyStoriesSource, count: int) -> None:
        self.source, self.count = source, count

    def __iter__(self) -> Iterator[str]:
        return islice(self.source, self.count)

    def fingerprint(self) -> dict:
        return self.source.fingerprint() | {"documents": self.count}


def prepare_data(config: DataConfig) -> TokenData:
    """Return the tokens that a run learns from, prepared once under :func:`gptoss_lib.settings.home`.

    Raises:
        FileNotFoundError: if a file or a published tokenizer is not there.
        ConnectionError: if TinyStories is not at hand and cannot be reached.
        ValueError: if a document cannot be read.
    """
    if config.source == "stories" and config.tokenizer is None:
        return story_data(config.documents or 6_000, config.vocab_size, config.seed, config.val_fraction)
    if config.source == "stories":
        source = GrammarSource(StoryGrammar(), config.seed, config.documents or 6_000)
    else:
        if config.source == "files":
            source = FileSource(config.paths, config.field)
        else:
            streaming = config.documents is not None  # no need to download what is not read
            source = TinyStoriesSource(streaming=streaming, path=next(iter(config.paths), None))
        if config.documents is not None:
            source = _FirstDocuments(source, config.documents)
    own = (config.tokenizer, config.vocab_size, config.tokenizer_documents)
    recipe = json.dumps([source.fingerprint(), own, config.val_fraction])
    name = f"{config.source}-{sha256(recipe.encode()).hexdigest()[:12]}"
    directory = home() / "data" / name
    if config.tokenizer is not None:
        tokenizer = get_tokenizer(config.tokenizer)
    else:
        path = directory.with_name(f"{name}.tokenizer.json")
        tokenizer = train_tokenizer(
            source, config.vocab_size, path, config.val_fraction, config.tokenizer_documents
        )
    return prepare(source, tokenizer, directory, config.val_fraction)


# %%
letters = scratch / "letters.txt"
letters.write_text("<|endoftext|>".join(f"Letter {n}: all is well, and the sea is calm." for n in range(400)))
own = DataConfig(source="files", paths=str(letters), vocab_size=300, val_fraction=0.1)
tokens = prepare_data(own)
print(f"{tokens.train_documents} training documents, {len(tokens.train):,} tokens,", end=" ")
print(f"V = {tokens.tokenizer.vocab_size}")
print(tokens.tokenizer.decode(tokens.train[:30]))

# %% [markdown]
# The model of that run, built twice, and once with another seed:

# %%
data = prepare_data(quick.data)
V = data.tokenizer.vocab_size
model = build_model(quick, V)
count = count_parameters(model.config)
print(f"{count.total:,} parameters, of which {count.active:,} work on a token; V = {V:,}")
same = build_model(quick, V)
equal = all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))
other = build_model(dataclasses.replace(quick, seed=1), V)
print(f"the same seed gives the same weights: {equal}; another seed:", end=" ")
print(torch.equal(model.lm_head.weight, other.lm_head.weight))

# %% [markdown]
# ## Two losses
#
# What is minimized is
#
# $$ \mathcal{L} = \mathcal{L}_\mathrm{text} + c_\mathrm{balance} \cdot \frac1n\sum_{\ell=1}^{n}
# \mathcal{L}_\mathrm{balance}^{(\ell)} + c_z \cdot \frac1n\sum_{\ell=1}^{n} \mathcal{L}_z^{(\ell)} $$
#
# In words: the cross-entropy of the next token, plus a small multiple of the balancing loss of [chapter
# 14](14_mixture_of_experts.ipynb), computed layer by layer and averaged over the $n$ layers, plus a multiple of that
# chapter's z-loss, which keeps the routers' logits small (its coefficient is 0 unless you ask for it). The first term is what you want. The others are **regularizers**: they keep the experts usable, and every bit
# of force that they exert is taken from the first.
#
# So a log has to keep them apart. The number to compare with other models is `nats`, the text alone; a loss that contains
# the regularizers would look worse than a GPT-2's for no reason. Two more numbers say how the routers do. `max_load` is the
# load of the busiest expert of any layer as a multiple of an even share: 1 is perfect, E / K = 4 means that every token
# goes there. `router_entropy` is the mean entropy of the routers' softmax over all experts: $\ln E$ where a router has no
# opinion, 0 where it is certain.


# %%
#| export
def gptoss_loss(balance_coef: float = 0.01, z_coef: float = 0.0) -> Callable:
    """Return a ``loss_fn`` for :class:`gptoss_lib.training.Trainer` that also looks after the routers.

    What is optimized is cross-entropy + ``balance_coef`` · balance + ``z_coef`` · z, where balance and z
    are the means over layers of :func:`gptoss_lib.moe.load_balancing_loss` and
    :func:`gptoss_lib.moe.router_z_loss`. The metrics are

    - ``nats``: the cross-entropy alone;
    - ``balance``, ``z``: the two terms before they are weighed;
    - ``max_load``: tokens of the busiest expert of any layer, as a multiple of an even share, 1 to E / K;
    - ``router_entropy``: mean over tokens and layers, in nats; ln E where a router is undecided.

    Args:
        balance_coef: 0 leaves the load to itself.
        z_coef: 0 lets the routers' logits grow.
    """

    def loss_fn(model: nn.Module, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, dict]:
        nats, router_logits = model(input_ids, labels=labels)
        top_k = getattr(model, "module", model).config.num_experts_per_tok  # DDP wraps the model
        balance = torch.stack([load_balancing_loss(logits, top_k) for logits in router_logits]).mean()
        z = torch.stack([router_z_loss(logits) for logits in router_logits]).mean()
        metrics = {"nats": nats, "balance": balance, "z": z} | _router_metrics(router_logits, top_k)
        loss = nats + balance_coef * balance + z_coef * z
        return loss, {name: value.detach() for name, value in metrics.items()}

    return loss_fn


@torch.no_grad()
def _router_metrics(router_logits: list[Tensor], top_k: int) -> dict[str, Tensor]:
    """Measure how unevenly the experts are used, and how undecided the routers are."""
    num_experts = router_logits[0].shape[1]
    busiest = torch.stack([expert_load(logits, top_k).max() for logits in router_logits]).max()
    log_p = torch.stack(router_logits).float().log_softmax(-1)  # [L, N, E]
    entropy = -(log_p.exp() * log_p).sum(-1).mean()
    return {"max_load": busiest * num_experts / top_k, "router_entropy": entropy}


# %%
input_ids, labels = next(Batches(data.train, 4, 256))
loss, metrics = gptoss_loss(balance_coef=0.01)(model, input_ids, labels)
for name, value in metrics.items():
    print(f"{name:15s}{value:6.2f}")
print(f"{'loss':15s}{loss.item():6.2f}  = nats + 0.01 · balance")
print(f"{'ln V':15s}{math.log(V):6.2f}")
print(f"{'ln E':15s}{math.log(8):6.2f}")

# %% [markdown]
# A fresh model: the loss is close to $\ln V$, and the routers have hardly an opinion. The load is not even, though: a
# random router prefers some experts a little, for all tokens alike, and *a little* is enough to be chosen.
#
# ### How hard to push
#
# `transformers` gives gpt-oss's config a `router_aux_loss_coef` of 0.9, and our `GPTOSSConfig` has the same default because it
# reads the same files. Is that what one trains with? Ask the gradient. Both terms pull at the router's weights; how strong
# is each pull?


# %%
def pulls(model):
    """Return the norm of the gradient at all routers: of the text, and of the balancing loss."""
    routers = [layer.mlp.router.weight for layer in model.model.layers]
    nats, logits = model(input_ids, labels=labels)
    balance = torch.stack([load_balancing_loss(each, 2) for each in logits]).mean()
    grads = [torch.autograd.grad(term, routers, retain_graph=True) for term in (nats, balance)]
    return [torch.cat([g.flatten() for g in grad]).norm().item() for grad in grads]


text, balance = pulls(model)
for coefficient in (0.001, 0.01, 0.1, 0.9):
    ratio = coefficient * balance / text
    print(f"coefficient {coefficient:5}: balance pulls {ratio:5.2f} times as hard as the text")

# %% [markdown]
# With 0.9 the balancing loss pulls several times as hard as the text at these fresh routers. They would learn to be even
# before they learn to be right. The Switch Transformer used 0.01 ([Fedus et al.,
# 2021](https://arxiv.org/abs/2101.03961)), where the text is clearly the stronger of the two; what gpt-oss was trained with, OpenAI has not
# said. A default in a config class is not a recipe. We take 0.01 and do not tune it.

# %% [markdown]
# ## The run
#
# Now the function that does it all. Read the middle: data, model, loss, trainer, in four lines. The rest is about the
# folder. It is **self-contained**: `config.json` is the architecture in Hugging Face's format, `run.json` the run,
# `tokenizer.json` the vocabulary; with the checkpoints beside them, nothing else is needed to use the model. And it
# **belongs to one run**: if you change a setting and start again in the same folder, you get an error and not a mixture of
# two runs.


# %%
#| export
def pretrain(
    run: RunConfig, run_dir: str | Path, loggers: Iterable[Logger] = ()
) -> tuple[nn.Module, TokenData, list[dict]]:
    """Carry out a run, or the rest of it, in a folder that holds everything about it.

    The folder gets ``run.json``, ``config.json`` (the architecture), ``tokenizer.json``, ``log.jsonl``,
    ``latest.safetensors`` and ``best.safetensors``. A run that was stopped goes on where its last
    checkpoint left it; a finished one is loaded. A second process waits for the first.

    Args:
        run: what to do.
        run_dir: the folder, made where it is missing.
        loggers: see every record that goes to the log.

    Returns:
        The trained model in eval mode, the data, and the records of the log.

    Raises:
        ValueError: if the folder holds another run, or something is wrong with the data.
        FloatingPointError: if the loss is not finite.
    """
    run_dir = Path(run_dir)
    _require_device(run.training.device)
    run_dir.mkdir(parents=True, exist_ok=True)
    with _alone_in(run_dir):
        _refuse_another_run(run, run_dir)
        data = prepare_data(run.data)
        model = build_model(run, data.tokenizer.vocab_size)
        _describe(run, model, data, run_dir)
        routed = isinstance(model, GPTOSS)
        loss_fn = gptoss_loss(run.balance_coef, run.z_coef) if routed else next_token_loss
        history = Trainer(model, data, run.training, run_dir, loss_fn, loggers).train()
    return model.eval(), data, history


def _require_device(device: str) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"training.device is {device!r}, but PyTorch finds no GPU here; set it to 'cpu', or use "
            "a machine that has one."
        )


# %%
#| export
@contextmanager
def _alone_in(run_dir: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder."""
    lock = FileLock(run_dir / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Another process trains in {run_dir}; waiting for it.", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _refuse_another_run(run: RunConfig, run_dir: Path) -> None:
    """Raise a ValueError where the folder belongs to a run with another config."""
    if not (run_dir / "run.json").exists():
        return
    theirs, ours = _flat(RunConfig.from_json(run_dir).to_dict()), _flat(run.to_dict())
    for name in sorted(theirs.keys() | ours.keys()):
        old, new = theirs.get(name), ours.get(name)
        if old != new and name.removeprefix("training.") not in MAY_CHANGE:
            raise ValueError(
                f"{run_dir} holds a run with {name}={old!r}, but this one has {new!r}; "
                "choose another folder, or go on with the old value."
            )


def _flat(values: dict, prefix: str = "") -> dict:
    """Turn nested dicts into one with dotted names."""
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _describe(run: RunConfig, model: nn.Module, data: TokenData, run_dir: Path) -> None:
    """Write the run's three small files."""
    tokenizer_path = run_dir / "tokenizer.json"
    if tokenizer_path.exists():
        if tokenizer_path.read_bytes() != (data.directory / "tokenizer.json").read_bytes():
            raise ValueError(
                f"{tokenizer_path} is not the tokenizer of this run's data; restore one of them."
            )
    else:
        data.tokenizer.save(tokenizer_path)
    model.config.to_json(run_dir / "config.json")
    run.to_json(run_dir / "run.json")


# %% [markdown]
# To watch it you need a logger, a function that sees every record. This one draws six panels while the run goes on.


# %% tags=["hide-input"]
class LiveRun:
    """Draws loss, bits per byte, the experts' load, the routers' entropy and the gradient's norm."""

    def __init__(self, floor_nats, floor_bits, num_experts, top_k, seconds=6.0):
        self.floors, self.limits = (floor_nats, floor_bits), (num_experts / top_k, math.log(num_experts))
        self.records, self.seconds, self.drawn, self.display = [], seconds, -math.inf, None

    def __call__(self, record):
        self.records.append(record)
        final = record["kind"] == "val" and record["step"] == quick.training.steps
        if final or time.monotonic() - self.drawn > self.seconds:
            from IPython.display import display

            if self.display is None:
                self.display = display(self.figure(), display_id=True)
            else:
                self.display.update(self.figure())
            self.drawn = time.monotonic()

    def figure(self):
        def series(kind, name):
            return zip(*[(r["step"], r[name]) for r in self.records if r["kind"] == kind], strict=True)

        fig, axes = new_figure(7.4, 4.0, nrows=2, ncols=3)
        loss, bits, load, entropy, norm, rate = axes.flat
        loss.plot(*series("train", "nats"), color=COLORS["grey"], linewidth=1)
        if any(record["kind"] == "val" for record in self.records):
            loss.plot(*series("val", "loss"), color=COLORS["blue"], marker="o", markersize=4)
            bits.plot(*series("val", "bits_per_byte"), color=COLORS["blue"], marker="o", markersize=4)
        for ax, floor in ((loss, self.floors[0]), (bits, self.floors[1])):
            ax.axhline(floor, color=COLORS["green"], linestyle="--", linewidth=1)
            ax.set_ylim(bottom=0)
        for ax, name, limit in (
            (load, "max_load", self.limits[0]),
            (entropy, "router_entropy", self.limits[1]),
        ):
            ax.plot(*series("train", name), color=COLORS["violet"], linewidth=1.2)
            ax.axhline(limit, color=COLORS["red"], linestyle=":", linewidth=1)
        load.axhline(1, color=COLORS["green"], linestyle="--", linewidth=1)
        norm.plot(*series("train", "grad_norm"), color=COLORS["pink"], linewidth=1)
        rate.plot(*series("train", "learning_rate"), color=COLORS["grey"], linewidth=1.2)
        titles = (
            "nats a token",
            "bits a byte",
            "busiest expert (× even)",
            "router entropy",
            "gradient norm",
            "learning rate",
        )
        for ax, title in zip(axes.flat, titles, strict=True):
            ax.set_title(title, fontsize=9)
            ax.set_xlim(0, quick.training.steps)
            ax.tick_params(labelsize=8)
        alt = (
            "Six curves over the updates of the run: nats a token and bits a byte with the grammar's floor, "
        )
        alt += "load of the busiest expert, entropy of the routers, norm of the gradient, and learning rate."
        return show(fig, alt=alt)


# %% [markdown]
# About a minute. The grey curve is the loss of the training batches, blue is the whole validation set, the dashed green
# lines are the floor: the loss of the grammar itself.

# %% tags=["nbval-ignore-output"]
floor = data.val_floor_nats / len(data.val)
floor_bits = bits_per_byte(data.val_floor_nats, data.val_bytes)
live = LiveRun(floor, floor_bits, num_experts=8, top_k=2)
model, data, history = pretrain(quick, home() / "runs" / "stories-quick", loggers=[live])

# %% tags=["nbval-ignore-output"]
train = [record for record in history if record["kind"] == "train"]
last = history[-1]
print(f"our GPT-OSS     {last['loss']:.3f} nats a token, {last['bits_per_byte']:.3f} bits a byte")
print(f"the floor       {floor:.3f} nats a token, {floor_bits:.3f} bits a byte")
print(f"still to learn  {last['loss'] - floor:.3f} nats a token")
print(f"{train[-1]['tokens']:,} tokens in {last['seconds']:.0f} s; the corpus has {len(data.train):,}")

# %%
assert floor < last["loss"] < 1.45
assert train[-1]["max_load"] < 2.5 and train[-1]["router_entropy"] < train[0]["router_entropy"]
print("it is above the floor, below 1.45 nats a token, and no expert has taken over")

# %% [markdown]
# Read the curves. The loss falls fast while the model learns which words are frequent and which follow which, and then more
# slowly: to predict the name of the hero in the tenth sentence it has to look for it in the first. The routers' entropy
# falls over the run: they get opinions. The busiest expert starts at more than twice an even share, grows busier still while
# the learning rate is highest, and then comes down.
#
# It is still well above the floor, and you know from chapter 06 why: two fifths of the corpus are all that fit into a
# minute or so, and many blocks begin in the middle of a story, so that nobody could know what was said before.
#
# ## Is it better than GPT-2?
#
# One run says little: another seed gives another number. So here are logged runs with three seeds each, of this GPT-OSS and of a
# GPT-2 that has the same number of **active** parameters, the same width, the same number of layers, the same tokenizer, the
# same tokens in the same order, and the same optimizer and schedule. They were made with the command below, each in one
# thread, and the library carries their logs. (Do not read speed from them: the machine had other work.) This is how a run is logged and read:


# %%
#| export
def record_run(path: str | Path, run: RunConfig, history: list[dict]) -> None:
    """Append a run to a JSON Lines file: what it was and where it ran, then its log.

    Numbers are rounded to five digits. The machine is described by its processor alone.

    Args:
        path: the file, made where it is missing.
        run: what was done.
        history: the records of the log.
    """
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    head = {"kind": "run", "config": run.to_dict(), "versions": versions, "machine": processor_name()}
    lines = [head, *({name: _short(value) for name, value in each.items()} for each in history)]
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _short(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def processor_name() -> str:
    """Return the name of the processor that this process runs on."""
    info = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def recorded_runs(path: str | Path) -> list[tuple[RunConfig, list[dict]]]:
    """Read what :func:`record_run` wrote: each run's config and log.

    Args:
        path: the file, or the name of one that comes with the library, such as ``"16_stories"``.
    """
    packaged = files("gptoss_lib") / "runs" / f"{path}.jsonl"
    text = (packaged if packaged.is_file() else Path(path)).read_text(encoding="utf-8")
    runs: list[tuple[RunConfig, list[dict]]] = []
    for record in map(json.loads, text.splitlines()):
        if record["kind"] == "run":
            runs.append((RunConfig.from_dict(record["config"]), []))
        else:
            runs[-1][1].append(record)
    return runs


# %%
gpt2 = RunConfig.from_json(find_config("stories-quick-gpt2"))
sizes = model_config(gpt2, V)
stored = gpt2_parameters(V, sizes.n_positions, sizes.n_embd, sizes.n_layer, sizes.n_inner)
active = stored - sizes.n_positions * sizes.n_embd  # positions are looked up, not multiplied
print(f"GPT-2:   {stored:9,} parameters, {active:,} active")
print(f"GPT-OSS: {count.total:9,} parameters, {count.active:,} active")
print(f"they differ by {abs(active / count.active - 1):.2%} in active parameters")
print("\npython -m gptoss_lib train stories-quick --set seed=1 --record runs.jsonl")

# %%
recorded = recorded_runs("16_stories")
ends = {"GPT-2": {}, "GPT-OSS": {}}
for run, log in recorded:
    if run.balance_coef == quick.balance_coef:
        ends["GPT-2" if "n_embd" in run.model else "GPT-OSS"][run.seed] = log[-1]["loss"]
print("seed    GPT-2  GPT-OSS  difference   (nats a token, whole validation set)")
for seed in sorted(ends["GPT-2"].keys() & ends["GPT-OSS"].keys()):
    a, b = ends["GPT-2"][seed], ends["GPT-OSS"][seed]
    print(f"{seed:4d}   {a:6.3f}   {b:6.3f}      {b - a:+.3f}")

# %% tags=["hide-input"]
fig, ax = new_figure(7, 3.0)
labelled = set()
for run, log in recorded:
    if run.balance_coef != quick.balance_coef:
        continue
    kind, color = ("GPT-2", "orange") if "n_embd" in run.model else ("GPT-OSS", "blue")
    steps, losses = zip(
        *[(r["step"], r.get("nats", r["loss"])) for r in log if r["kind"] == "train"], strict=True
    )
    smooth = [
        sum(losses[max(0, i - 2) : i + 3]) / len(losses[max(0, i - 2) : i + 3]) for i in range(len(losses))
    ]
    label = kind if kind not in labelled else None
    labelled.add(kind)
    ax.plot(steps, smooth, color=COLORS[color], linewidth=1.3, label=label)
ax.axhline(floor, color=COLORS["green"], linestyle="--", linewidth=1, label="floor")
ax.set(xlabel="update", ylabel="nats a token (training)", ylim=(0, 6))
ax.legend()
show(
    fig,
    alt="Training loss of logged runs of GPT-2 and GPT-OSS with the same active parameters, and the floor. The "
    "curves of the GPT-OSS runs lie clearly below those of the GPT-2 runs from the first hundred updates on.",
)

# %% [markdown]
# For each of the three seeds the GPT-OSS is ahead, by far more than the seeds of either model differ. That is not yet a verdict, and here is why. For the
# GPT-OSS we tried four combinations of shape and batch before this one was chosen, and none for the GPT-2. Chapter 06's GPT-2, which is
# hardly larger, reads rows of 128 tokens and a fifth more of them, and ends far lower than the one here: a
# baseline that is trained with somebody else's settings is a weak baseline. The mixture also stores more than twice as many parameters.
# So take from this table that the runs work, and that the seed is not what separates them. Which architecture is better is a question
# for [the fair fight](17_fair_fight.ipynb), which sweeps the learning rate for both.
#
# ## What the router learned
#
# Every token of the validation set has passed a router in each layer. Two questions: is the work divided evenly, and does
# the division mean anything?


# %%
@torch.no_grad()
def choices(model, rows=48):
    """Return tokens [N] and each layer's router logits [N, E] on the beginning of the validation set."""
    block = torch.from_numpy(data.val[: rows * 256].astype("int64")).view(rows, 256)
    _, logits = model(block, labels=block)
    return block.flatten(), logits


seen, routed = choices(model)
loads = torch.stack([expert_load(logits, 2) / 2 for logits in routed])  # [L, E]

# %% tags=["hide-input"]
fig, ax = new_figure(7, 2.4)
for layer in range(len(loads)):
    offset = 0.4 * layer - 0.2
    ax.bar(
        [e + offset for e in range(8)],
        100 * loads[layer],
        width=0.38,
        color=CYCLE[2 * layer],
        label=f"layer {layer}",
    )
ax.axhline(12.5, color=COLORS["grey"], linestyle="--", linewidth=1)
ax.set(xlabel="expert", ylabel="share of choices (%)", xticks=range(8))
ax.legend(ncols=2, loc="upper right")
show(
    fig,
    alt="Share of the choices that each of eight experts gets in both layers, with a dashed line at an eighth. All "
    "experts work; the busiest has less than twice the share of an even division.",
)

# %% [markdown]
# Now the meaning. For the most frequent tokens, which expert is the first choice, and how often?

# %% tags=["hide-input"]
frequent = torch.bincount(seen, minlength=V).argsort(descending=True)[:30].tolist()
tables = []
for logits in routed:
    first = logits.argmax(-1)
    tables.append(
        torch.stack([torch.bincount(first[seen == t], minlength=8) / (seen == t).sum() for t in frequent])
    )
order = sorted(range(len(frequent)), key=lambda i: (int(tables[0][i].argmax()), -float(tables[0][i].max())))
names = [repr(data.tokenizer.decode([frequent[i]]))[1:-1].replace(" ", "·") for i in order]
fig, axes = new_figure(7, 5.6, ncols=2, sharey=True)
for layer, ax in enumerate(axes):
    image = ax.imshow(tables[layer][order], vmin=0, vmax=1, aspect="auto")
    ax.grid(False)
    ax.set(xlabel="expert", title=f"layer {layer}", xticks=range(8))
axes[0].set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names], fontsize=8)
fig.colorbar(image, ax=axes, label="share of first choices", shrink=0.6)
show(
    fig,
    alt="Thirty frequent tokens by eight experts, colored by how often the expert is the first choice, for both layers. "
    "In the first layer most tokens have one expert that nearly always comes first; in the second the choice of many "
    "tokens depends on the context.",
)


# %% tags=["nbval-ignore-output"]
def guessed(logits):
    """Return how often the first choice is the token's usual one, and how often the most usual of all."""
    first, N = logits.argmax(-1), len(seen)
    table = torch.zeros(V, 8).index_put_((seen, first), torch.ones(N), accumulate=True)
    return (table.max(-1).values.sum() / N).item(), (torch.bincount(first).max() / N).item()


for layer, logits in enumerate(routed):
    known, blind = guessed(logits)
    print(f"layer {layer}: the token alone tells the first expert in {known:.0%} of cases", end=" ")
    print(f"(guessing blindly: {blind:.0%})")

# %%
assert all(guessed(logits)[0] > guessed(logits)[1] + 0.2 for logits in routed)
assert loads.max() < 0.25, "no expert has twice an even share"
print("the token tells much about its expert, in both layers")

# %% [markdown]
# The routers of this small model divide the vocabulary above all. In the first layer, where a token has seen others through
# one attention only, this is almost a table from token to expert: the full stop has one, and so has each frequent word. In the
# second layer the context has more of a say. Nobody asked for it; it is what the gradient found useful.
#
# ## Stories
#
# What does it write? With a cache, forty stories side by side take a second or two. And because the language is a grammar, we need no
# taste to judge them: its parser accepts a story or says where it stops making sense.

# %% tags=["nbval-ignore-output"]
stories = generation.generate_text(
    model,
    data.tokenizer,
    [""] * 40,
    330,
    seed=0,
    temperature=0.7,
    new_cache=lambda rows: KVCache.from_config(model.config, rows, 340),
)
grammar, reached = StoryGrammar(), []
for story in stories:
    try:
        grammar.parse(story)
        reached.append(1.0)
    except StoryError as error:
        reached.append(error.position / max(1, len(story)))
valid = sum(share == 1 for share in reached)
print(stories[0])
print(f"\n{valid} of {len(stories)} stories follow the grammar from beginning to end")
print(f"on average the parser reads {sum(reached) / len(reached):.0%} of a story before its first mistake")

# %%
assert sum(reached) / len(reached) > 0.03 and any("." in story for story in stories)
print("they are text, judged by a parser")

# %% [markdown]
# The sentences have the grammar's tone, and now and then a word that does not exist. No story is right from beginning to end,
# and the parser gives up early: one wrong word in two hundred is enough, and a model that is most of a nat above the
# floor makes one long before that. It is a disappointing result, and the expected one: a minute of one core is very little.
# Look at the names, too: the grammar's heroes keep theirs from the first sentence to the last.
#
# ## Killed half-way
#
# A run that takes days will be interrupted. Start one from the command line as a reader would, wait for its first
# checkpoint, and kill the process without any warning. Then give the same command again. (The model is smaller here, so
# that you need not wait.)

# %%
small = ["model.hidden_size=32", "model.intermediate_size=24", "training.steps=45"]
small += ["training.warmup_steps=5", "training.checkpoint_every=15", "training.eval_every=0"]
command = [sys.executable, "-m", "gptoss_lib", "train", "stories-quick", "--out", str(scratch / "killed")]
command += [part for change in small for part in ("--set", change)]
latest = scratch / "killed" / "latest.safetensors"

with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
    while process.poll() is None and not (latest.exists() and load_checkpoint(latest)[1]["step"] >= 15):
        time.sleep(0.01)
    process.kill()
print("killed; the last checkpoint is from update", load_checkpoint(latest)[1]["step"])

# %% tags=["nbval-ignore-output"]
finished = subprocess.run(command, capture_output=True, text=True)
print(finished.stderr)
print(finished.stdout)

# %% [markdown]
# To look at its weights, load it. A run's folder is all that this needs:


# %%
#| export
def load_run(
    run_dir: str | Path, checkpoint: str = "best", device: str = "cpu"
) -> tuple[nn.Module, BPETokenizer, RunConfig]:
    """Load the model of a run from its folder alone.

    Args:
        run_dir: what :func:`pretrain` filled.
        checkpoint: ``"best"``, the weights with the lowest validation loss (``"latest"`` where there was no
            validation yet), or ``"latest"``.
        device: where the model goes.

    Returns:
        The model in eval mode, its tokenizer, and the run's config.

    Raises:
        FileNotFoundError: if there is no run in the folder.
        ValueError: if a file in it is damaged.
    """
    run_dir = Path(run_dir)
    if not (run_dir / "run.json").is_file():
        raise FileNotFoundError(f"There is no run in {str(run_dir)!r}; a run's folder holds a run.json.")
    if checkpoint not in ("best", "latest"):
        raise ValueError(f"checkpoint is {checkpoint!r}; choose 'best' or 'latest'.")
    _require_device(device)
    run, tokenizer = RunConfig.from_json(run_dir), BPETokenizer.load(run_dir / "tokenizer.json")
    model = build_model(run, tokenizer.vocab_size)
    path = run_dir / f"{checkpoint}.safetensors"
    load_weights(model, path if path.exists() else run_dir / "latest.safetensors")
    return model.to(device).eval(), tokenizer, run


# %% [markdown]
# The same run again, without any interruption, in this process. Are the weights the same?

# %%
from gptoss_lib.__main__ import read_config

whole, _, _ = pretrain(read_config("stories-quick", small), scratch / "whole")
resumed, _, _ = load_run(scratch / "killed", checkpoint="latest")
pairs = list(zip(whole.parameters(), resumed.parameters(), strict=True))
same = all(torch.equal(a, b) for a, b in pairs)
print(f"same bits: {same} in {sum(a.numel() for a, _ in pairs):,} weights")

# %% [markdown]
# And a second run in a folder that is taken:

# %%
with contextlib.redirect_stderr(io.StringIO()) as messages:
    status = main([*command[3:], "--set", "training.learning_rate=0.001"])
print(messages.getvalue().replace(str(scratch), "…") + f"exit code {status}")

# %% [markdown]
# The message names the folder, the setting and both values. On a terminal it goes to the error stream.
#
# ## Everything from the command line
#
# `train` you have seen. `generate`, `eval` and `info` need the folder of a run and nothing else.

# %%
status = main(["info", str(scratch / "killed")])

# %% [markdown]
# `info` takes presets and configs too. The course's three larger relatives, which others have published, are trained by the
# same command, on a GPU: `python -m gptoss_lib train compact`. No GPU was at hand when this page was made, so their runs
# are still to be done; their sizes are exact.

# %%
for name in ("compact", "mini", "nano"):
    print(f"--- {name}")
    main(["info", name, "--length", "512"])

# %% [markdown]
# *nano* has one expert at work, and [chapter 14](14_mixture_of_experts.ipynb) showed what that means: the softmax over one score is
# always 1, and predicting text teaches its routers nothing. The model refuses to train unless the config says that you
# know:

# %%
nano = RunConfig.from_json(find_config("nano"))
print("allow_frozen_router:", nano.allow_frozen_router, "· balance_coef:", nano.balance_coef)
tiny = {"preset": "nano", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
try:
    pretrain(dataclasses.replace(quick, model=tiny), scratch / "nano")
except ValueError as error:
    print(error)

# %% [markdown]
# Its config also sets the balancing coefficient to 0. With K = 1 that loss would be the *only* force on the routers,
# and a router that is pushed around to even out numbers is worse than one that stands still.
#
# Real text needs no other program, only another `data`. This one reads the beginning of TinyStories ([Eldan & Li,
# 2023](https://arxiv.org/abs/2305.07759)) through the `datasets` library, trains a tokenizer on it, and trains *xs*. It is not run here, since it
# would download; the tests take the same path with a two-megabyte sample, from raw text to a generated story.

# %%
print(find_config("tinystories-xs").read_text())

# %% [markdown]
# ## How much of the machine
#
# Tokens a second are hard to judge: is 10,000 fast? It depends on the model and on the machine. **Model-FLOPs utilization**
# takes both out ([Chowdhery et al., 2022](https://arxiv.org/abs/2204.02311)):
#
# $$ \mathrm{MFU} = \frac{\text{tokens a second} \times \text{FLOPs a token}}{\text{FLOPs a second of the machine}} $$
#
# In words: of all the arithmetic that the machine could have done in that time, how much was the model's own? The FLOPs a token are [the
# map's](01_map.ipynb), forward and backward, and count only the experts that work on the token. For the machine, the papers take the number
# in the data sheet. We measure: one large matrix product by the same function that the model's layers call, the best of several.


# %%
#| export
def training_flops(config: GPTOSSConfig | GPT2Config, seq_len: int) -> float:
    """Return the FLOPs of training on one token: forward and backward, matrix products only.

    As :func:`gptoss_lib.config.flops_per_token` counts them, averaged over a sequence.
    """
    if isinstance(config, GPTOSSConfig):
        return flops_per_token(config, seq_len, mean=True).training
    D, inner = config.n_embd, config.n_inner or 4 * config.n_embd
    layer = 2 * (4 * D * D + 2 * D * inner) + 4 * D * (seq_len + 1) / 2  # a token sees half the sequence
    return 3 * (config.n_layer * layer + 2 * D * config.vocab_size)


# %%
#| export
def matmul_rate(device: str = "cpu", precision: str = "fp32", size: int | None = None) -> float:
    """Measure how many FLOPs a second this machine reaches in one large square matrix product.

    The product is :func:`gptoss_lib.products.product`, the fastest that the model itself can use.

    Args:
        device: where to measure; on a CPU with as many threads as PyTorch uses now.
        precision: "fp32" or "bf16".
        size: rows and columns; None for 1,024, or 8,192 on a GPU.

    Returns:
        The best of several tries: other programs can only slow a product down.
    """
    size = size or (8192 if device.startswith("cuda") else 1024)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(8):
        _wait_for(device)
        started = time.perf_counter()
        product(a, b)
        _wait_for(device)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def _wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


# %%
#| export
def peak_memory(device: str = "cpu") -> int | None:
    """Return the most bytes that this process has used so far; None where the system does not say.

    On a GPU, what PyTorch's tensors took there; otherwise main memory, Python and PyTorch included.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_speed(run: RunConfig, config: GPTOSSConfig | GPT2Config, history: list[dict]) -> dict[str, float]:
    """Return how fast a run was, and how close to what the machine can do.

    Args:
        run: the run; its device, precision and seq_len are used.
        config: the model's architecture, ``model.config``.
        history: the records of the log.

    Returns:
        ``tokens_per_second`` of the whole run, validation and checkpoints included; ``flops_per_second``
        that the model needs at that speed; ``matmul_rate``, measured now; and ``utilization``, the one
        divided by the other.
    """
    tokens = max(record["tokens"] for record in history if record["kind"] == "train")
    speed = tokens / max(record["seconds"] for record in history)
    flops = speed * training_flops(config, run.training.seq_len)
    rate = matmul_rate(run.training.device, run.training.precision)
    return {
        "tokens_per_second": speed,
        "flops_per_second": flops,
        "matmul_rate": rate,
        "utilization": flops / rate,
    }


# %% tags=["nbval-ignore-output"]
speed = run_speed(quick, model.config, history)
per_token = training_flops(model.config, quick.training.seq_len)
print(f"{speed['tokens_per_second']:,.0f} tokens a second × {per_token / 1e6:.2f} MFLOP a token")
print(f"= {speed['flops_per_second'] / 1e9:.1f} GFLOP/s;", end=" ")
print(f"a matrix product reaches {speed['matmul_rate'] / 1e9:.1f} GFLOP/s")
print(f"utilization {speed['utilization']:.0%}; peak memory {peak_memory() / 1e6:.0f} MB")

# %%
assert 0.01 < speed["utilization"] < 1
print("between 1 % and 100 %")

# %% [markdown]
# Where is the rest? The products of such a small model are small, and small products run below the speed of large ones. Norms, softmax,
# rotary positions and the optimizer move numbers without counting as model FLOPs. Wider models do better, on the same code.
#
# And how much does the loop itself cost, with its batches, metrics and logs? Compare one update of the trainer with the bare
# minimum: loss, backward, clipping and optimizer on a batch that is already there, and no number kept. The two take turns, and
# of each the fastest of forty counts, because other programs can only slow an update down.


# %% tags=["nbval-ignore-output"]
def loop_overhead(rounds=40):
    training = quick.training
    trainer = Trainer(build_model(quick, V), data, training, scratch / "loop", gptoss_loss())
    bare = build_model(quick, V)
    optimizer = torch.optim.AdamW(parameter_groups(bare, 0.1), lr=1e-3, fused=True)
    batch = next(Batches(data.train, training.batch_size, training.seq_len))

    def bare_step():
        optimizer.zero_grad()
        nats, router_logits = bare(batch[0], labels=batch[1])
        balances = [load_balancing_loss(logits, 2) for logits in router_logits]
        (nats + 0.01 * torch.stack(balances).mean()).backward()
        nn.utils.clip_grad_norm_(bare.parameters(), 1.0)
        optimizer.step()

    fastest = [math.inf, math.inf]
    for _ in range(rounds):
        for number, step in enumerate((bare_step, trainer._update)):
            began = time.process_time()
            step()
            fastest[number] = min(fastest[number], time.process_time() - began)
    return fastest[1] / fastest[0] - 1


overhead = loop_overhead()
print(f"the trainer's update takes {100 * overhead:+.1f} % more than the bare step")

# %%
assert overhead < 0.1
print("less than a tenth")

# %% [markdown]
# The difference is near what such a measurement can resolve, a percent or two. Validation and checkpoints come on top: they are
# work that was asked for.
#
# ## Reality check
#
# Is `pretrain` the same as a loop that you write by hand? Here is one, with PyTorch's own parts and the formula of the loss
# spelled out. The log of the run above has the loss of its first update and of its tenth. They must agree, not closely but
# in every bit.

# %%
by_hand, batches = build_model(quick, V), Batches(data.train, 4, 256, seed=0)
optimizer = torch.optim.AdamW(parameter_groups(by_hand, 0.1), betas=(0.9, 0.99), eps=1e-8, fused=True)
losses = []
for step in range(10):
    input_ids, labels = next(batches)
    nats, router_logits = by_hand(input_ids, labels=labels)
    loss = nats + 0.01 * sum(load_balancing_loss(logits, 2) for logits in router_logits) / 2
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, quick.training)
    optimizer.step()
    losses.append(loss.item())
print("update 1 :", losses[0] == train[0]["loss"], "  update 10:", losses[9] == train[1]["loss"])
print(f"the first loss is ln V to 5 %: {abs(train[0]['nats'] / math.log(V) - 1) < 0.05}")

# %% [markdown]
# ## What gpt-oss-20b uses
#
# OpenAI's model card says what the training of gpt-oss-120b took, 2.1 million hours of an H100, and that the 20b
# needed almost ten times fewer; the number of tokens it gives as "trillions" ([OpenAI,
# 2025](https://arxiv.org/abs/2508.10925)). An H100 is [rated](https://www.nvidia.com/en-us/data-center/h100/) at 1,979 teraFLOPs a
# second in bf16 "with sparsity", half of that for dense matrices. The formulas of this chapter turn hours into a guess:

# %%
big = GPTOSSConfig.preset("gpt-oss-20b")
per_token = flops_per_token(big, 4096, mean=True).training
hours, peak = 2.1e6 / 10, 989e12  # H100-hours; dense bf16 FLOPs a second
for utilization in (0.2, 0.3, 0.4):
    seen_tokens = hours * 3600 * peak * utilization / per_token
    print(f"at {utilization:.0%} utilization: about {seen_tokens / 1e12:.0f} trillion tokens")
ratio = hours * 3600 * peak * 0.3 / per_token / count_parameters(big).active
print(f"at 30 %, roughly {round(ratio, -2):,.0f} tokens for each active parameter")
ours = train[-1]["tokens"] / count.active
print(f"our run: {ours:.1f} tokens for each active parameter")

# %% [markdown]
# That is a guess about a training run, by means of one published number and an assumed utilization and precision. The card
# does not say either, nor which part of the hours was pretraining. But the order of magnitude stands: thousands of tokens for each active parameter, where
# [Hoffmann et al., 2022](https://arxiv.org/abs/2203.15556) recommend about twenty if only training has to be paid for. A model that
# will be *used* a great deal is worth training far longer. Ours has seen about one.
#
# ## Pitfalls
#
# - **The balancing loss that is never added.** In `transformers` the loss is computed only where the config says
#   `output_router_logits=True`, and that is off by default: fine-tune a mixture and `router_aux_loss_coef` does nothing, without
#   a word ([reported for Mixtral and all models built on it](https://github.com/huggingface/transformers/pull/44586)). Log the
#   load; if it is not in the log, you do not know.
# - **The same batches after every restart.** A loop that sets the seed at the start and does not save its place in the data
#   shows a resumed model the first batches again ([nanoGPT](https://github.com/karpathy/nanoGPT/issues/467)). The
#   loss even looks good. `Batches` is a pure function of seed and step, and the checkpoint holds the step.
# - **A second warm-up.** A schedule that counts from the restart warms up again in the middle of a run
#   ([OpenFold](https://github.com/aqlaboratory/openfold/issues/181)). Ours depends on the update's number alone.
# - **Comparing losses that are not the same thing.** A loss with regularizers in it, a loss on training batches, a loss of another
#   tokenizer: none can be compared with `nats` on the validation set. Across tokenizers use bits a byte.
# - **Counting stored parameters in MFU.** With all experts counted, a mixture seems to use its machine several times better than it
#   does.
#
# ## Exercises
#
# In [the exercise notebook](exercises/16_pretraining.ipynb):
#
# 1. Mix the losses: text, balance and z, layer by layer.
# 2. Compute the utilization of a run, and avoid four ways to flatter it.
# 3. Write the resume that neither warms up twice nor sees the same batch again.
# 4. Plan a run: given a budget of FLOPs, how many parameters and how many tokens?
#
# ## Summary
#
# - A run is a file: model, data, training, coefficients, one seed. It is strict about what it does not know, and the run's
#   folder needs nothing else.
# - The routers' losses are regularizers. Keep their coefficient small, log them apart, and never compare a loss that
#   contains them.
# - About a minute of one core takes a GPT-OSS with 0.6 million active parameters to within a nat of the grammar's floor, below a GPT-2 of
#   the same active size with the same settings, for each of three seeds. That is a start, not yet a fair fight.
# - The routers of this model divide the vocabulary; the load stays even enough with a coefficient of 0.01.
# - Resume means the same bits, and a test shows it. Utilization, not tokens a second, says how well a machine is used.
#
# All names of this chapter: [`gptoss_lib.pretraining`](../book/reference/pretraining.md). Next: [The fair fight](17_fair_fight.ipynb), the
# comparison that this chapter only began.
#
# ## Further reading
#
# - [Fedus et al., 2021](https://arxiv.org/abs/2101.03961): the balancing loss in a real run, with its coefficient and what it
#   costs.
# - [Chowdhery et al., 2022](https://arxiv.org/abs/2204.02311): PaLM, whose appendix defines model-FLOPs utilization.
# - [Hoffmann et al., 2022](https://arxiv.org/abs/2203.15556): how to divide a budget between parameters and tokens.
# - [nanochat](https://github.com/karpathy/nanochat): another path from raw text to a model that talks, in one repository.
