# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Students in vLLM: `vllm serve STUDENT` where hf_tc is installed beside it.

vLLM finds `plugin.register` by an entry point and calls it in each of its processes. A student is then vLLM's own model
of the teacher's family, in which the attention of recurrent layers is replaced by a mixer on the same projections; so
what vLLM does for a family (its kernels, its sharding, its loading of weights) it does for the student.

    families.py            which students: those of these teachers, in these forms
    checks.py              what is refused, in one line, before a weight is loaded
    plugin.py              what vLLM calls
    engine_hooks.py        what vLLM asks about a student's configuration
    student_classes.py     vLLM's model of a family with recurrent layers
    mixer.py               the recurrent layer
    mixer_parameters.py    a rank's share of its weights
    paged_states.py        what is kept of a sequence
    paged_batch.py         what a step hands to the layer
    torch_core.py          the recurrence over that on a CPU, by hf_tc's own forms
    kernel_core.py         the same on a GPU, by vLLM's kernels

Without vLLM there are `families`, `checks`, `plugin`, `paged_batch` and `torch_core`; the others import it.
"""
