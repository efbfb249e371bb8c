"""The architecture of a GPT-OSS model as one validated object, and what that architecture costs.

Six numbers describe a GPT-2. A GPT-OSS config also says which layers look at a window only, how many of
the experts work on a token, and which biases, sinks and norms there are. The fields have Hugging Face's
names, so that a published ``config.json`` loads as it is.

Built in chapter 01: edit ``notebooks/01_map.py``, not this file.
"""

import json
import math
import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path

__all__ = [
    "LAYER_TYPES",
    "PRESETS",
    "FlopCount",
    "GPTOSSConfig",
    "ParameterCount",
    "RopeScaling",
    "count_parameters",
    "flops_per_token",
    "gpt2_parameters",
    "kv_cache_bytes",
    "parameter_shapes",
    "visible_tokens",
    "weight_bytes",
]


def _require_sizes(config, names: tuple[str, ...]) -> None:
    """Raise a ValueError unless every one of these fields is a whole number above zero."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be a whole number above zero.")


@dataclass(frozen=True)
class RopeScaling:
    """How YaRN stretches rotary positions beyond the length that a model was first trained on.

    The names are those of ``rope_scaling`` in a ``config.json``; the defaults are gpt-oss's.
    Source: https://arxiv.org/abs/2309.00071.

    Raises:
        ValueError: if a value is out of range.
    """

    factor: float = 32.0  # how many times longer the context becomes
    beta_fast: float = 32.0  # frequencies that turn more often than this are kept
    beta_slow: float = 1.0  # frequencies that turn less often than this are divided by the factor
    truncate: bool = False  # whether the ramp between the two is rounded to whole dimensions
    original_max_position_embeddings: int = 4096  # the length before stretching

    def __post_init__(self) -> None:
        _require_sizes(self, ("original_max_position_embeddings",))
        for name in ("factor", "beta_fast", "beta_slow"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)):
                raise ValueError(f"{name} is {value!r}; it must be a number.")
        if self.factor < 1:
            raise ValueError(f"factor is {self.factor!r}; YaRN lengthens a context, so make it at least 1.")
        if not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(
                f"beta_slow is {self.beta_slow!r} and beta_fast is {self.beta_fast!r}; "
                "make both positive, and beta_slow the smaller one."
            )


LAYER_TYPES = ("sliding_attention", "full_attention")


@dataclass(frozen=True)
class GPTOSSConfig:
    """The architecture of one model; ``GPTOSSConfig()`` is gpt-oss-20b.

    Every field but the last five has its name from Hugging Face's ``GptOssConfig``. The last five describe
    relatives of gpt-oss that leave a part out or put one in.

    Raises:
        ValueError: if a value is out of range or two fields contradict each other.
    """

    vocab_size: int = 201_088  # V: tokens in the vocabulary
    hidden_size: int = 2880  # D: numbers that describe one token between the layers
    intermediate_size: int = 2880  # F: width inside an expert
    num_hidden_layers: int = 24
    num_attention_heads: int = 64  # H: query heads
    num_key_value_heads: int = 8  # KV: key/value heads, each shared by H / KV query heads
    head_dim: int = 64  # hd: never hidden_size / num_attention_heads
    num_local_experts: int = 32  # E: experts in a layer
    num_experts_per_tok: int = 4  # K: experts that work on one token
    sliding_window: int | None = 128  # tokens that a sliding layer sees, the newest included
    layer_types: tuple[str, ...] | None = None  # one of LAYER_TYPES a layer; None alternates, sliding first
    max_position_embeddings: int = 131_072  # longest context
    rope_theta: float = 150_000.0  # base of the rotary frequencies
    rope_scaling: RopeScaling | None = RopeScaling()  # None for plain rotary positions
    rms_norm_eps: float = 1e-5  # added under the root, so that a zero vector stays finite
    swiglu_alpha: float = 1.702  # steepness of the experts' gate
    swiglu_limit: float = 7.0  # where the experts' activations are clamped
    initializer_range: float = 0.02  # standard deviation of fresh weights
    router_aux_loss_coef: float = 0.9  # weight of the load-balancing loss
    tie_word_embeddings: bool = False  # whether the head is the embedding matrix again
    attention_bias: bool = True  # biases of q_proj, k_proj and v_proj
    attention_out_bias: bool = True  # bias of o_proj
    router_bias: bool = True  # bias of the router
    expert_bias: bool = True  # biases inside the experts
    attention_sinks: bool = True  # one learned sink a query head
    embedding_norm: str | None = None  # "layernorm": a LayerNorm right after the embedding

    def __post_init__(self) -> None:
        _require_sizes(self, tuple(f.name for f in fields(self) if f.type is int))
        kinds = self.layer_types
        if kinds is None:
            kinds = (LAYER_TYPES[index % 2] for index in range(self.num_hidden_layers))
        object.__setattr__(self, "layer_types", tuple(kinds))
        _validate(self)

    @property
    def initial_context_length(self) -> int:
        """The context length before YaRN stretched it."""
        scaling = self.rope_scaling
        return scaling.original_max_position_embeddings if scaling else self.max_position_embeddings

    @property
    def is_standard(self) -> bool:
        """Whether transformers' ``GptOssForCausalLM`` can build this architecture."""
        extras = (self.router_bias, self.expert_bias, self.attention_sinks, self.embedding_norm is None)
        return all(extras) and self.attention_out_bias == self.attention_bias

    @classmethod
    def preset(cls, name: str) -> "GPTOSSConfig":
        """Return one of :data:`PRESETS` by its name.

        Raises:
            ValueError: if there is no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"There is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
        return PRESETS[name]

    @classmethod
    def from_json(cls, path: str | Path) -> "GPTOSSConfig":
        """Read a ``config.json``, or the one in the folder ``path``, from any version of transformers.

        Keys that say nothing about the architecture are skipped; unknown ones are named in a warning.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not JSON, a size is missing, or it describes another architecture.
        """
        path = Path(path)
        if path.is_dir():
            path = path / "config.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}); download or copy it again.") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds a {type(values).__name__}; a config.json holds one JSON object.")
        return cls(**_fields_from_json(values))

    def to_json(self, path: str | Path) -> None:
        """Write a ``config.json`` in the style of transformers 5, to a file or into an existing folder."""
        path = Path(path)
        if path.is_dir():
            path = path / "config.json"
        path.write_text(json.dumps(_fields_to_json(self), indent=2) + "\n", encoding="utf-8")


def _validate(config) -> None:
    """Raise a ValueError for the first thing in ``config`` that does not fit the rest."""

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise ValueError(message)

    c = config
    require(
        c.num_attention_heads % c.num_key_value_heads == 0,
        f"{c.num_attention_heads} query heads cannot share {c.num_key_value_heads} key/value heads evenly; "
        "make num_attention_heads a multiple of num_key_value_heads.",
    )
    require(c.head_dim % 2 == 0, f"head_dim is {c.head_dim}; rotary positions turn pairs, so make it even.")
    require(
        c.num_experts_per_tok <= c.num_local_experts,
        f"num_experts_per_tok is {c.num_experts_per_tok}, but there are only {c.num_local_experts} experts; "
        "lower it or raise num_local_experts.",
    )
    require(
        len(c.layer_types) == c.num_hidden_layers,
        f"layer_types names {len(c.layer_types)} layers, but num_hidden_layers is {c.num_hidden_layers}; "
        "name every layer, or pass layer_types=None for the alternating pattern.",
    )
    unknown = sorted(set(map(str, c.layer_types)) - set(LAYER_TYPES))
    require(not unknown, f"layer_types has {unknown}; every entry must be one of {list(LAYER_TYPES)}.")
    if LAYER_TYPES[0] in c.layer_types:
        _require_sizes(c, ("sliding_window",))
    if c.rope_scaling is not None:
        require(
            isinstance(c.rope_scaling, RopeScaling),
            f"rope_scaling is {c.rope_scaling!r}; pass a RopeScaling, or None for plain rotary positions.",
        )
        original = c.rope_scaling.original_max_position_embeddings
        require(
            original <= c.max_position_embeddings,
            f"original_max_position_embeddings is {original}, beyond max_position_embeddings "
            f"{c.max_position_embeddings}; YaRN only lengthens a context.",
        )
    for name in ("rope_theta", "rms_norm_eps", "initializer_range", "swiglu_alpha", "swiglu_limit"):
        value = getattr(c, name)
        is_number = isinstance(value, (int, float))
        require(is_number and value > 0, f"{name} is {value!r}; it must be a number above zero.")
    weight = c.router_aux_loss_coef
    require(
        isinstance(weight, (int, float)) and weight >= 0,
        f"router_aux_loss_coef is {weight!r}; the weight of a loss must be a number, and not negative.",
    )
    for name in [field.name for field in fields(c) if field.type is bool]:
        value = getattr(c, name)
        require(isinstance(value, bool), f"{name} is {value!r}; choose True or False.")
    require(
        c.embedding_norm in (None, "layernorm"),
        f"embedding_norm is {c.embedding_norm!r}; choose None or 'layernorm'.",
    )


# What a config.json may say besides the architecture.
_OTHER_KEYS = {
    *("architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "quantization_config"),
    *("use_cache", "output_router_logits", "pad_token_id", "bos_token_id", "eos_token_id", "_name_or_path"),
    *("experts_per_token", "initial_context_length", "hidden_act", "attention_dropout"),
}
# Where the course's model has no choice: a key, and the values of it that mean the same architecture.
_FIXED = {"model_type": ("gpt_oss", "gpt_oss_variant"), "hidden_act": ("silu",), "attention_dropout": (0,)}
_OWN_FIELDS = ("attention_out_bias", "router_bias", "expert_bias", "attention_sinks", "embedding_norm")
_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "num_local_experts", "num_experts_per_tok"),
)


def _fields_from_json(values: dict) -> dict:
    """Turn what a config.json holds into the fields of a GPTOSSConfig."""
    for key, allowed in _FIXED.items():
        if values.get(key, allowed[0]) not in allowed:
            raise ValueError(f"{key} is {values[key]!r}; a GPT-OSS model has {allowed[0]!r} there.")
    missing = [name for name in _SIZES if name not in values]
    if missing:
        raise ValueError(f"The config lacks {', '.join(missing)}; a model needs every one of its sizes.")
    names = {field.name for field in fields(GPTOSSConfig)}
    unknown = sorted(set(values) - names - _OTHER_KEYS - {"rope_parameters"})
    if unknown:
        message = f"The config has keys that are not GPT-OSS's and are ignored: {', '.join(unknown)}."
        warnings.warn(message, stacklevel=3)
    kept = {name: value for name, value in values.items() if name in names}
    kept.setdefault("attention_out_bias", kept.get("attention_bias", True))
    return kept | _read_rope(values)


def _read_rope(values: dict) -> dict:
    """Read rotary positions in the old style (``rope_scaling``) and in the new one (``rope_parameters``)."""
    style = "rope_parameters" if "rope_parameters" in values else "rope_scaling"
    defaults = {"rope_type": "yarn", **asdict(RopeScaling())}
    rope = values.get(style, defaults)
    if not isinstance(rope, dict):
        raise ValueError(
            f"{style} is {rope!r}, which versions of transformers read differently; "
            'write {"rope_type": "default"} for plain rotary positions, or all of YaRN\'s numbers.'
        )
    rope = {key: value for key, value in rope.items() if value is not None}
    theta = rope.pop("rope_theta", values.get("rope_theta", GPTOSSConfig.rope_theta))
    if values.get("rope_theta", theta) != theta:
        raise ValueError(
            f"rope_theta is {values['rope_theta']!r}, but {theta!r} in {style}; keep one of them."
        )
    kind = rope.pop("rope_type", rope.pop("type", None))
    if kind == "default" and not rope:
        return {"rope_theta": theta, "rope_scaling": None}
    known = {field.name for field in fields(RopeScaling)}
    if kind != "yarn" or not rope.keys() <= known or "factor" not in rope:
        raise ValueError(
            f"{style} is {values[style]!r}; GPT-OSS has rope_type 'default', or 'yarn' with a factor "
            f"and any of {', '.join(sorted(known))}."
        )
    length = values.get("initial_context_length", RopeScaling.original_max_position_embeddings)
    rope.setdefault("original_max_position_embeddings", length)
    return {"rope_theta": theta, "rope_scaling": RopeScaling(**rope)}


def _fields_to_json(config: GPTOSSConfig) -> dict:
    """Return what transformers 5 writes for this architecture, and the course's own fields where needed."""
    values = asdict(config)
    scaling = values.pop("rope_scaling")
    values["rope_parameters"] = {
        "rope_type": "yarn" if scaling else "default",
        "rope_theta": values.pop("rope_theta"),
        **(scaling or {}),
    }
    if config.is_standard:
        for name in _OWN_FIELDS:
            del values[name]
    return {
        "architectures": ["GptOssForCausalLM" if config.is_standard else "GPTOSS"],
        # A name that transformers does not know keeps it from building a model that lacks a part.
        "model_type": "gpt_oss" if config.is_standard else "gpt_oss_variant",
        "hidden_act": "silu",
        "initial_context_length": config.initial_context_length,
        **values,
    }


def _small(
    layers: int, hidden: int, inner: int, head_dim: int, heads: tuple[int, int], vocab: int, length: int
) -> GPTOSSConfig:
    """Return one of the course's own sizes: 8 experts, 2 at work, windows of a quarter of the context."""
    return GPTOSSConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        head_dim=head_dim,
        num_local_experts=8,
        num_experts_per_tok=2,
        sliding_window=length // 4,
        max_position_embeddings=length,
        rope_theta=10_000.0,
        rope_scaling=None,
        tie_word_embeddings=True,
    )


PRESETS = {
    "gpt-oss-20b": GPTOSSConfig(),
    "gpt-oss-120b": GPTOSSConfig(num_hidden_layers=36, num_local_experts=128),
    # Three small relatives that others have published, part for part.
    "compact": GPTOSSConfig(
        vocab_size=32_000,
        hidden_size=768,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=12,
        num_key_value_heads=2,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=4096,
        rope_theta=10_000.0,
        rope_scaling=None,
        tie_word_embeddings=True,
        attention_bias=False,
        attention_out_bias=False,
        router_bias=False,
    ),
    "mini": GPTOSSConfig(
        vocab_size=100_256,
        hidden_size=512,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=2048,
        rope_theta=1_000_000.0,
        rope_scaling=None,
        tie_word_embeddings=True,
        attention_out_bias=False,
        router_bias=False,
        expert_bias=False,
        attention_sinks=False,
        embedding_norm="layernorm",
    ),
    "nano": GPTOSSConfig(
        hidden_size=1020,
        intermediate_size=1020,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=6,
        num_local_experts=4,
        num_experts_per_tok=1,
    ),
    # What the course trains: on a CPU in minutes (xs, s), and on a GPU (m).
    "xs": _small(4, 64, 96, 16, (4, 2), 2048, 128),
    "s": _small(4, 128, 160, 32, (4, 2), 4096, 256),
    "m": _small(8, 512, 672, 64, (8, 2), 8192, 512),
}


def parameter_shapes(config: GPTOSSConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by its name, as in transformers' state dict.

    Letters: V vocabulary, D hidden, H query heads, KV key/value heads, hd head_dim, E experts,
    F intermediate. A tied head is the embedding again and has no entry of its own.
    """
    c = config
    V, D = c.vocab_size, c.hidden_size
    shapes = {"model.embed_tokens.weight": (V, D)}
    if c.embedding_norm:
        shapes |= {"model.embed_norm.weight": (D,), "model.embed_norm.bias": (D,)}
    for index in range(c.num_hidden_layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in _layer_shapes(c).items()}
    shapes["model.norm.weight"] = (D,)
    if not c.tie_word_embeddings:
        shapes["lm_head.weight"] = (V, D)
    return shapes


def _layer_shapes(config: GPTOSSConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of one layer's parameters."""
    c = config
    D, F, E = c.hidden_size, c.intermediate_size, c.num_local_experts
    q_width, kv_width = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    shapes = {
        "input_layernorm.weight": (D,),
        "self_attn.sinks": (c.num_attention_heads,) if c.attention_sinks else None,
        "post_attention_layernorm.weight": (D,),
        "mlp.router.weight": (E, D),
        "mlp.router.bias": (E,) if c.router_bias else None,
        "mlp.experts.gate_up_proj": (E, D, 2 * F),
        "mlp.experts.gate_up_proj_bias": (E, 2 * F) if c.expert_bias else None,
        "mlp.experts.down_proj": (E, F, D),
        "mlp.experts.down_proj_bias": (E, D) if c.expert_bias else None,
    }
    for name, (inputs, outputs), bias in (
        ("q_proj", (D, q_width), c.attention_bias),
        ("k_proj", (D, kv_width), c.attention_bias),
        ("v_proj", (D, kv_width), c.attention_bias),
        ("o_proj", (q_width, D), c.attention_out_bias),
    ):
        shapes[f"self_attn.{name}.weight"] = (outputs, inputs)
        shapes[f"self_attn.{name}.bias"] = (outputs,) if bias else None
    return {name: shape for name, shape in shapes.items() if shape is not None}


@dataclass(frozen=True)
class ParameterCount:
    """How many parameters each part of a model has; ``active_*`` count what one token is multiplied by."""

    embedding: int
    attention: int
    router: int
    experts: int
    norms: int
    head: int  # 0 where the head is the embedding again
    active_experts: int
    active_head: int  # V × D, tied or not: the token is multiplied by it

    @property
    def total(self) -> int:
        """All parameters that the model stores."""
        return self.embedding + self.body + self.head

    @property
    def active(self) -> int:
        """Parameters that one token is multiplied by: without the embedding, which is only looked up."""
        return self.active_body + self.active_head

    @property
    def body(self) -> int:
        """Everything but the embedding and the head."""
        return self.attention + self.router + self.experts + self.norms

    @property
    def active_body(self) -> int:
        """The part of the body that works on one token."""
        return self.body - self.experts + self.active_experts


_PARTS = {
    "embed_tokens": "embedding",
    ".self_attn.": "attention",
    ".router.": "router",
    ".experts.": "experts",
    "norm": "norms",
    "lm_head": "head",
}


def count_parameters(config: GPTOSSConfig) -> ParameterCount:
    """Count the parameters of every part, exactly.

    "Active" follows OpenAI's model card (https://arxiv.org/abs/2508.10925): the head counts, the input
    embedding does not, and of E experts those K that a token is sent to.
    """
    counts = dict.fromkeys(_PARTS.values(), 0)
    for name, shape in parameter_shapes(config).items():
        part = next(part for piece, part in _PARTS.items() if piece in name)
        counts[part] += math.prod(shape)
    return ParameterCount(
        **counts,
        active_experts=counts["experts"] // config.num_local_experts * config.num_experts_per_tok,
        active_head=config.vocab_size * config.hidden_size,
    )


def gpt2_parameters(
    vocab_size: int = 50_257,
    n_positions: int = 1024,
    n_embd: int = 768,
    n_layer: int = 12,
    n_inner: int | None = None,
    tie_word_embeddings: bool = True,
    qkv_bias: bool = True,
) -> int:
    """Count the parameters of a GPT-2; the defaults are the smallest one that OpenAI published.

    Args:
        n_inner: width of the feed-forward part, ``4 * n_embd`` where None.
        tie_word_embeddings: whether the head is the embedding matrix again, as in OpenAI's models.
        qkv_bias: whether queries, keys and values have biases, as in OpenAI's models.
    """
    D, F = n_embd, n_inner or 4 * n_embd
    attention = 3 * D * D + D * D + (3 * D if qkv_bias else 0) + D
    feed_forward = D * F + F + F * D + D
    layer_norm = 2 * D  # a weight and a bias
    layer = attention + feed_forward + 2 * layer_norm
    embeddings = vocab_size * D * (1 if tie_word_embeddings else 2) + n_positions * D
    return embeddings + n_layer * layer + layer_norm


@dataclass(frozen=True)
class FlopCount:
    """Floating-point operations that one token costs in each part's matrix products (forward pass)."""

    projections: int  # q_proj, k_proj, v_proj and o_proj
    attention: float  # scores, and the weighted sum of values
    router: int
    experts: int
    head: int

    @property
    def forward(self) -> float:
        """The whole forward pass."""
        return self.projections + self.attention + self.router + self.experts + self.head

    @property
    def training(self) -> float:
        """Forward and backward: the backward pass makes two products for each one of the forward pass."""
        return 3 * self.forward


def visible_tokens(config: GPTOSSConfig, context_length: int) -> list[int]:
    """Return for every layer how many tokens the newest of ``context_length`` sees, itself included.

    Raises:
        ValueError: if ``context_length`` is not a whole number above zero.
    """
    if not isinstance(context_length, int) or context_length < 1:
        raise ValueError(f"context_length is {context_length!r}; it must be a whole number above zero.")
    reach = {"full_attention": context_length, "sliding_attention": config.sliding_window or context_length}
    return [min(context_length, reach[kind]) for kind in config.layer_types]


def flops_per_token(config: GPTOSSConfig, context_length: int, mean: bool = False) -> FlopCount:
    """Count the FLOPs of one token: 2 for each weight that multiplies it, 4 × H × hd for each token it sees.

    Norms, activations, biases and softmax are left out, as is usual. Together they are far below one percent,
    but for softmax at long contexts: a few operations for each token seen, beside the 4 × hd counted here.

    Args:
        context_length: tokens in the context, the newest included.
        mean: False for the newest token, which is what generating it costs; True for the mean over all
            tokens of a sequence of that length, which is what training on it costs.

    Raises:
        ValueError: if ``context_length`` is not a whole number above zero.
    """
    c = config
    seen = visible_tokens(c, context_length)
    if mean:  # token t sees t tokens until its window w is full: w(w + 1) / 2 in all, then w each
        seen = [(w * (w + 1) / 2 + (context_length - w) * w) / context_length for w in seen]
    L, D, K = c.num_hidden_layers, c.hidden_size, c.num_experts_per_tok
    q_width, kv_width = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    return FlopCount(
        projections=2 * L * (2 * D * q_width + 2 * D * kv_width),
        attention=4 * q_width * sum(seen),
        router=2 * L * D * c.num_local_experts,
        experts=2 * L * K * 3 * D * c.intermediate_size,
        head=2 * D * c.vocab_size,
    )


_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


def weight_bytes(config: GPTOSSConfig, precision: str = "bf16") -> int:
    """Return how many bytes the weights take.

    ``fp32`` and ``bf16`` store every parameter in 4 or 2 bytes. ``int8`` stores matrices in one byte a
    number and vectors (biases, norms, sinks) in bf16; its scales, one a row at most, are left out.
    ``mxfp4`` is how gpt-oss is published: the experts' matrices in blocks of 32 four-bit numbers with one
    eight-bit scale (17 bytes a block, along the input), all the rest in bf16.

    Raises:
        ValueError: if ``precision`` is none of these.
    """
    if precision not in (*_BYTES, "mxfp4"):
        raise ValueError(f"precision is {precision!r}; choose fp32, bf16, int8 or mxfp4.")
    total = 0
    for name, shape in parameter_shapes(config).items():
        if precision == "mxfp4" and name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = shape
            total += experts * outputs * math.ceil(inputs / 32) * 17
        elif precision == "mxfp4" or (precision == "int8" and (len(shape) == 1 or name.endswith("bias"))):
            total += math.prod(shape) * 2
        else:
            total += math.prod(shape) * _BYTES[precision]
    return total


def kv_cache_bytes(
    config: GPTOSSConfig,
    context_length: int,
    batch_size: int = 1,
    bytes_per_value: int = 2,
    sliding: bool = True,
) -> int:
    """Return how many bytes the keys and values of a context take.

    Args:
        context_length: tokens in the context.
        batch_size: how many contexts are kept at once.
        bytes_per_value: 2 for bf16, 4 for fp32.
        sliding: True where a sliding layer keeps its window only; False for a cache that keeps every token
            in every layer, as many programs do.

    Raises:
        ValueError: if ``context_length`` is not a whole number above zero.
    """
    kept = visible_tokens(config, context_length)
    if not sliding:
        kept = [context_length] * config.num_hidden_layers
    # One key and one value for every key/value head.
    per_token = 2 * config.num_key_value_heads * config.head_dim * bytes_per_value
    return batch_size * per_token * sum(kept)
