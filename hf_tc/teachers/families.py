# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Teacher families by `model_type`, as data: what a recurrent layer preserves of their attention, and what it cannot.

Said once, for all: projections, biases, q/k norms, clipping and rotation are the teacher's and are compared with it in
the self-check. A softmax temperature (multipliers, query scales) and a soft-cap have no counterpart, since recurrent
layers normalise q and k; a sliding window has none either, the decay takes its place. Calibration fits what these did.
What their modules are called and how they are read is in `hf_tc.modeling.teacher_attention`, the same for all families.
"""

WINDOW = "window not preserved"
TEMPERATURE = "softmax multiplier not preserved"
SOFT_CAP = "soft-cap and query scale not preserved"
SINKS = "attention sinks not preserved"
EXPERTS = "experts and router are the family's own"
NOPE = "layers without positions found by measurement, not rotated"
INTERLEAVED = "interleaved RoPE preserved"

REVIEWED_FAMILIES = {
    "afmoe": f"per-head q/k norm preserved; {NOPE}; {WINDOW}; sigmoid gate replaced by the output gate; {EXPERTS}",
    "apertus": "per-head q/k norm preserved",
    "apertus1p5_text": "per-head q/k norm and llama3 RoPE preserved; pruned output head is the family's own",
    "arcee": "as llama",
    "aria_text": f"as llama; {EXPERTS}",
    "beam": f"per-head q/k norm preserved; {NOPE}; {WINDOW}; query scale by position not preserved; sigmoid gate "
    f"replaced by the output gate; {EXPERTS}",
    "biogpt": "biases preserved; learned positions, added to the embeddings, and layerdrop are the family's own",
    "bitnet": "norm before the output projection not preserved; ternary checkpoints refused (quantised)",
    "cohere": f"{INTERLEAVED}; LayerNorm on q/k, one weight a head, preserved; parallel residual is the family's own",
    "cohere2": f"{INTERLEAVED}; {NOPE}; {WINDOW}; parallel residual is the family's own",
    "cohere2_moe": f"{INTERLEAVED}; {NOPE}; {WINDOW}; {EXPERTS}",
    "cohere_compass_text": f"one RoPE for each layer type preserved; {NOPE}; {WINDOW}; parallel residual is the "
    "family's own",
    "cwm": f"llama3 RoPE preserved; {WINDOW}",
    "dots1": f"per-head q/k norm preserved; {WINDOW}; {EXPERTS}",
    "ernie4_5": f"{INTERLEAVED}",
    "ernie4_5_moe": f"{INTERLEAVED}; {EXPERTS}",
    "exaone": "as llama",
    "exaone4": f"per-head q/k norm preserved; {NOPE}; {WINDOW}",
    "exaone_moe": f"per-head q/k norm preserved; {NOPE}; {WINDOW}; {EXPERTS}",
    "flex_olmo": f"q/k norm over all heads preserved; {EXPERTS}",
    "flint": f"per-head q/k norm preserved; {NOPE}; {WINDOW}; {SINKS}",
    "gemma": "as llama",
    "gemma2": f"{SOFT_CAP}; {WINDOW}",
    "gemma3_text": f"per-head q/k norm and one RoPE for each layer type preserved; {SOFT_CAP}; {WINDOW}",
    "glm": f"{INTERLEAVED} on the first channels",
    "glm4": f"{INTERLEAVED} on the first channels",
    "glm4_moe": f"partial RoPE and per-head q/k norm preserved; {EXPERTS}",
    "gpt_neox": "fused projection split; partial RoPE preserved; parallel residual is the family's own",
    "gpt_oss": f"half-width RoPE (yarn) and biases preserved; {SINKS}; {WINDOW}; {EXPERTS}",
    "granite": f"{TEMPERATURE}",
    "granite_swa": f"{NOPE}; {TEMPERATURE}; {SINKS}; {WINDOW}",
    "granitemoe": f"{TEMPERATURE}; {EXPERTS}",
    "granitemoe_swa": f"{NOPE}; {TEMPERATURE}; {SINKS}; {WINDOW}; {EXPERTS}",
    "granitemoehybrid": f"without Mamba layers only; RoPE, or none, preserved; {TEMPERATURE}; {EXPERTS}",
    "granitemoeshared": f"{TEMPERATURE}; {EXPERTS}",
    "helium": f"{INTERLEAVED}",
    "hunyuan_v1_dense": "q/k norm after the rotation preserved",
    "hunyuan_v1_moe": f"q/k norm after the rotation preserved; {EXPERTS}",
    "hy_v3": f"per-head q/k norm preserved; {EXPERTS}",
    "hyperclovax": f"{TEMPERATURE}",
    "internlm3": "as llama, biases preserved",
    "iquestcoder": "as llama",
    "jais2": "as llama, biases preserved",
    "kolibri1": f"per-head q/k norm preserved; {NOPE}; {WINDOW}; {EXPERTS}",
    "llama": "biases and every RoPE type (llama3, yarn, ...) preserved",
    "mellum": f"per-head q/k norm and one RoPE for each layer type preserved; {WINDOW}; {EXPERTS}",
    "minimax_m2": f"q/k norm over all heads and partial RoPE preserved; {EXPERTS}",
    "minimax_m3_vl_text": f"per-head q/k norm and partial RoPE preserved; sparse block choice not preserved; {EXPERTS}",
    "ministral": f"{WINDOW}",
    "ministral3": f"RoPE preserved; query scale by position not preserved; {WINDOW}",
    "mistral": f"{WINDOW}",
    "mixtral": f"{WINDOW}; {EXPERTS}",
    "nanochat": "q/k norm without weight preserved; its own direction of rotation preserved",
    "olmo": "clip_qkv preserved",
    "olmo2": "q/k norm over all heads preserved",
    "olmo3": f"q/k norm over all heads preserved; {WINDOW}",
    "olmoe": f"q/k norm over all heads, then clip_qkv, preserved; {EXPERTS}",
    "persimmon": "fused projection split; partial RoPE and LayerNorm on q/k preserved",
    "phi": "inline partial RoPE, LayerNorm on q/k and biases preserved; parallel residual is the family's own",
    "phi3": f"fused projection split; partial RoPE and longrope preserved; {WINDOW}",
    "phimoe": f"biases and longrope preserved; {WINDOW}; {EXPERTS}",
    "qwen2": f"q/k/v biases preserved; {WINDOW}",
    "qwen2_moe": f"q/k/v biases preserved; {WINDOW}; {EXPERTS}",
    "qwen3": f"per-head q/k norm preserved; {WINDOW}",
    "qwen3_moe": f"per-head q/k norm preserved; {WINDOW}; {EXPERTS}",
    "sarvam_moe": f"per-head q/k norm preserved; {EXPERTS}",
    "seed_oss": "biases preserved; dropout after the output projection not preserved",
    "smollm3": f"{NOPE}; {WINDOW}",
    "solar_open": f"as llama; {EXPERTS}",
    "starcoder2": f"biases preserved; dropout after the output projection not preserved; {WINDOW}",
    "vaultgemma": f"{SOFT_CAP}; {WINDOW}",
}

NO_KEYWORDS = (
    "its decoder layers do not hand keyword arguments to attention, so padding could not reach recurrent layers."
)
LATENT = "its attention keeps a low-rank latent instead of keys and values; there are no k and v projections to adopt."
OLD_LAYOUT = "its blocks are not in `layers` and do not follow the library's present decoder layout."
RECURRENT = "it already has recurrent or convolutional layers."
LOOPED = "its layers run several times for each token, with a cache for each run; a recurrent layer has one state."
SHARED_KEYS = "layers differ in head size, or reuse the keys and values of other layers, which recurrent layers lack."

FAMILIES_BY_REASON = {
    NO_KEYWORDS: ["gpt_neox_japanese", "nemotron", "stablelm"],
    LATENT: [
        *("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots3_note_text", "glm4_moe_lite"),
        *("glm_moe_dsa", "hy_v4", "longcat_flash", "minicpm3", "sarvam_mla", "youtu"),
    ],
    OLD_LAYOUT: [
        *("bloom", "codegen", "cpmant", "ctrl", "dbrx", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "mpt"),
        *("openai-gpt", "opt"),
    ],
    RECURRENT: [
        *("bailing_hybrid", "bamba", "falcon_h1", "falcon_mamba", "inkling_text", "inkling2_text", "jamba"),
        *("kimi_linear", "lara_mini", "lfm2", "lfm2_moe", "lfm3", "mamba", "mamba2", "minimax", "nemotron_h"),
        *("olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "qwen4_exp_text", "recurrent_gemma"),
        *("rwkv", "xlstm", "zamba", "zamba2", "zaya"),
    ],
    LOOPED: ["dory", "hrm_text", "inkling2_loop_text"],
    SHARED_KEYS: ["gemma3n_text", "gemma4_text", "gemma4_unified_text"],
}

# Families that fail for a reason known, so that the reason is told at once. No flag overrides it.
REFUSED_FAMILIES: dict[str, str] = {
    **{family: reason for reason, families in FAMILIES_BY_REASON.items() for family in families},
    "deepseek_v4": "its attention reads compressed blocks of tokens, which serve as keys and values at once.",
    "diffllama": "its attention is the difference of two softmaxes; one recurrent state a head cannot be both.",
    "doge": "its attention masks keys by a learned score, and its own decoding differs from its own full forward.",
    "jetmoe": "each expert has its own query and output projection; a mixer has one.",
    "laguna": "the number of heads differs between layers, and its gate a head would be taken for the output gate.",
    "llama4_text": "chunked attention and complex rotations; its backbone is not where Transformers says.",
    "mimo_v2_flash": "its value heads are smaller than its key heads.",
    "xglm": "its attention bypasses Transformers' attention functions, so that its q and k cannot be compared.",
}
