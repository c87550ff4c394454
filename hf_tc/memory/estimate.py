# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Peak memory of a conversion, from widths and tokens; and whether what is captured of a layer fits on the device.

With N tokens that stream through the teacher (the text and its corrupted copies), M of them solved on (the text, 65,536
at most), b tokens of a batch (b' of one that is `solved_at_once`), a of an alignment step, C the hidden size, H query
and G K/V heads of size D, I = H D, P the parameters of a recurrent layer, and 4 bytes a float32 value:

    hidden states         N C itemsize
    a layer's capture     4 N (2 C + I)                                 its input, context and output
    query solve           4 M 2 I                                       keys and writes
    closed form           4 b' (15 I + C + 2 G D + 5 * 64 H) + 8 H (C + 1)^2 + 4 * 2 P     one Gram matrix a head
    alignment             4 a (27 I + 3 C + 3 G D + 4 * 64 H) + 4 * 6 P  autograd, Adam, the best weights so far
    teacher's layer       itemsize b (2 C + 3 widest linear module), and `attention_map_bytes`
    logits                (6 * 4 + 2 itemsize) vocabulary, of b tokens or as many as `kd_loss.tokens_at_once` says

Of the last four the largest counts: they follow one another. Depth appears nowhere but in the weights. All but weights
and hidden states counts once for each of the layers that a CPU fits at once (`layers_at_once`). Joint alignment,
where it is asked for, trains all layers at once, when the text is gone: autograd of every recurrent layer and of the
rest of every layer, 4 b (2 C + 2 widest), 4 * 6 P for each recurrent layer, and half an `attention_map_bytes` for each
retained one; it takes fewer blocks in a pass where memory is short. The factors before I, C, G D and 64 H (tiles of
64 tokens of the delta rule) were counted, tensor by tensor, with a tracker of live storages at seven shapes; tests hold
the estimate against that tracker.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_tc.calibration.recurrence_outputs import solved_at_once
from hf_tc.calibration.solve_order import SOLVED_TOKENS
from hf_tc.config import ConversionConfig
from hf_tc.data.corrupted_sequences import number_of_corrupted_sequences
from hf_tc.evaluation.kd_loss import tokens_at_once
from hf_tc.modeling.gated_delta_rule import CHUNK_SIZE
from hf_tc.modeling.teacher_attention import find_attention, find_decoder_layers, head_shape

FLOAT32 = 4
STREAM_BATCH_TOKENS = 8192  # tokens that go through a layer of the teacher, or of the student, together
EXPECTED_WITHIN = 1.5  # measured peaks lie within this factor of the estimate, either way


@dataclass(frozen=True)
class Widths:
    """The sizes that memory and time depend on."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    widest: int  # largest output of a linear module of a layer
    vocabulary: int
    layer_parameters: int  # of the teacher's largest decoder layer
    mixer_parameters: int  # of the largest recurrent layer
    itemsize: int  # bytes of a value of the teacher

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim


def widths_of(model: PreTrainedModel, mixer_parameters: int, itemsize: int) -> Widths:
    """The widths of a teacher, which may be on the meta device."""
    layers, config = find_decoder_layers(model.base_model), model.config
    heads, kv_heads, head_dim = head_shape(find_attention(layers[0])[1], config)
    linears = (module.out_features for layer in layers for module in layer.modules() if isinstance(module, nn.Linear))
    return Widths(
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        widest=max(linears),
        vocabulary=config.vocab_size,
        layer_parameters=largest(layers),
        mixer_parameters=mixer_parameters,
        itemsize=itemsize,
    )


def largest(modules: Iterable[nn.Module]) -> int:
    """Parameters of the largest of some modules, 0 for none."""
    return max((sum(parameter.numel() for parameter in module.parameters()) for module in modules), default=0)


def blocks_at_once(sequence_length: int) -> int:
    """Whole blocks of at most STREAM_BATCH_TOKENS, one block at least."""
    return max(1, STREAM_BATCH_TOKENS // sequence_length)


def batch_tokens(tokens: int, sequence_length: int) -> int:
    """b: the tokens of `blocks_at_once`, or all there are."""
    return min(tokens, blocks_at_once(sequence_length) * sequence_length)


def text_bytes(widths: Widths, streamed: int, text: int, at_once: int = 1) -> int:
    """What grows with the calibration text, where it is kept on the device in float32: hidden states, and what so many
    layers at once captured and solve on."""
    solved, captured = min(text, SOLVED_TOKENS), FLOAT32 * (2 * widths.hidden + widths.inner)
    chunks = 2 * widths.inner + widths.inner * widths.head_dim // CHUNK_SIZE + widths.heads * CHUNK_SIZE
    of_a_layer = streamed * captured + solved * FLOAT32 * chunks  # of a `WrittenMemory`
    return streamed * widths.hidden * widths.itemsize + at_once * of_a_layer


def text_bytes_in_host_memory(widths: Widths, streamed: int) -> int:
    """The same where it is kept in host memory: in the teacher's dtype, and without the query solve's part."""
    return streamed * widths.itemsize * (3 * widths.hidden + widths.inner)


def alignment_bytes(widths: Widths, tokens: int) -> int:
    """Gradient steps of one recurrent layer on batches of so many tokens."""
    w = widths
    kv, tiles = w.kv_heads * w.head_dim, CHUNK_SIZE * w.heads
    activations = tokens * (27 * w.inner + 3 * w.hidden + 3 * kv + 4 * tiles)
    return FLOAT32 * (activations + 6 * w.mixer_parameters)


def joint_bytes(widths: Widths, layers: int, converted: int, tokens: int, maps: int = 0) -> int:
    """Gradient steps of all recurrent layers at once, through the whole student, with so many tokens in a pass.

    Args:
        maps: `attention_map_bytes` of the pass, on a GPU. Each retained layer keeps half of them for its gradient, and
            the one whose turn it is makes them whole.
    """
    rest = FLOAT32 * tokens * 2 * (widths.hidden + widths.widest)
    return converted * alignment_bytes(widths, tokens) + layers * rest + (layers - converted + 2) * maps // 2


def has_room(needed: int, free: int | None) -> bool:
    """Whether joint alignment is worth doing unasked: on a GPU, and it fits there. None is a CPU's memory."""
    return free is not None and needed <= free


def joint_pass(widths: Widths, length: int, layers: int, converted: int, free: int | None) -> tuple[int, int]:
    """Blocks of a pass of joint alignment, and its `joint_bytes`: `blocks_at_once`, or fewer where these are not free.

    A step takes more passes then; one block is the least, whether or not it fits. None is the memory of a CPU, without
    a limit.
    """

    def needed(blocks: int) -> int:
        maps = 0 if free is None else attention_map_bytes(widths, blocks * length, length)
        return joint_bytes(widths, layers, converted, blocks * length, maps)

    blocks = blocks_at_once(length)
    while free is not None and blocks > 1 and needed(blocks) > free:
        blocks //= 2
    return blocks, needed(blocks)


def attention_map_bytes(widths: Widths, tokens: int, sequence_length: int) -> int:
    """Whole T x T maps of the teacher's own attention on a GPU, in blocks of `sequence_length`.

    No fused kernel of PyTorch's takes float32 heads that share keys and values (seen with torch 2.11): scores, softmax
    and a mask of one byte are kept then. Other attention makes none, nor, though counted here, do layers with a sliding
    window or heads wider than 256, whose keys Transformers repeats.
    """
    is_fused = widths.itemsize < FLOAT32 or widths.kv_heads == widths.heads
    return 0 if is_fused else (2 * FLOAT32 + 1) * tokens * sequence_length * widths.heads


def layer_bytes(widths: Widths, tokens: int, settings: ConversionConfig, *, on_gpu: bool) -> int:
    """What the work on one layer takes beside it: the largest of the four that follow one another."""
    w, b = widths, batch_tokens(tokens, settings.sequence_length)
    kv, tiles = w.kv_heads * w.head_dim, CHUNK_SIZE * w.heads
    solved = min(max(b, solved_at_once(w.inner, on_gpu)), settings.calibration_tokens, SOLVED_TOKENS)
    closed_form = FLOAT32 * solved * (15 * w.inner + w.hidden + 2 * kv + 5 * tiles) + FLOAT32 * 2 * w.mixer_parameters
    closed_form += 8 * w.heads * (w.hidden + 1) ** 2
    alignment = alignment_bytes(w, min(tokens, settings.alignment.step_tokens(settings.sequence_length)))
    teacher = w.itemsize * b * (2 * w.hidden + 3 * w.widest)
    if on_gpu:
        teacher += attention_map_bytes(w, b, settings.sequence_length)
    logits = (6 * FLOAT32 + 2 * w.itemsize) * w.vocabulary * min(tokens_at_once(w.vocabulary, on_cpu=not on_gpu), b)
    return max(closed_form, alignment, teacher, logits)


@dataclass(frozen=True)
class PeakMemory:
    """Bytes on the device and in host memory; on a CPU there is host memory alone.

    Attributes:
        text_in_host_memory: what is captured of a layer does not fit on the device and comes from host memory.
    """

    device: int
    host: int
    text_in_host_memory: bool = False


def streamed_tokens(settings: ConversionConfig) -> int:
    """Tokens that go through the teacher: the text and, where layers are aligned, its corrupted copies."""
    length = settings.sequence_length
    blocks = settings.calibration_tokens // length
    fitted = blocks - max(1, round(settings.held_out_fraction * blocks))
    return length * (blocks + number_of_corrupted_sequences(fitted, length, settings.alignment.drawn_blocks(length)))


def peak_memory(
    widths: Widths,
    settings: ConversionConfig,
    weights: int,
    joint: int = 0,
    *,
    device_bytes: int | None,
    weights_fit: bool = True,
    at_once: int = 1,
) -> PeakMemory:
    """Peak of the tensors of a conversion, libraries not counted.

    Args:
        weights: bytes of the teacher's weights and of the recurrent layers' beside them.
        joint: `joint_bytes`, 0 without joint alignment.
        device_bytes: memory of the GPU; None for a conversion on the CPU.
        weights_fit: False where they stay in host memory (offloading) but for one decoder layer.
        at_once: layers that are fitted at once, on a CPU.
    """
    streamed = streamed_tokens(settings)
    working = layer_bytes(widths, streamed, settings, on_gpu=device_bytes is not None)
    text = text_bytes(widths, streamed, settings.calibration_tokens, at_once)
    if device_bytes is None:
        return PeakMemory(0, weights + max(at_once * working + text, joint))
    on_device = weights if weights_fit else widths.layer_parameters * widths.itemsize
    in_host = 0 if weights_fit else weights
    if on_device + working + text <= device_bytes:
        return PeakMemory(on_device + max(working + text, joint), in_host)
    kept = text_bytes_in_host_memory(widths, streamed)
    return PeakMemory(on_device + max(working, joint), in_host + kept, text_in_host_memory=True)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that are free on a GPU now; None for a CPU, which has no other place to keep things."""
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
