"""One config for all tests of the config, in which no two sizes are alike."""

from gptoss_lib.config import GPTOSSConfig, RopeScaling

ODD = GPTOSSConfig(  # every size different, and no block of 32 that comes out even
    vocab_size=331,
    hidden_size=40,
    intermediate_size=56,
    num_hidden_layers=5,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=10,
    num_local_experts=7,
    num_experts_per_tok=3,
    sliding_window=9,
    layer_types=(
        "full_attention",
        "sliding_attention",
        "sliding_attention",
        "full_attention",
        "full_attention",
    ),
    max_position_embeddings=96,
    rope_theta=777.0,
    rope_scaling=RopeScaling(4.0, 20.0, 2.0, True, 24),
    rms_norm_eps=3e-6,
    swiglu_alpha=1.5,
    swiglu_limit=5.0,
    initializer_range=0.03,
    router_aux_loss_coef=0.01,
)
