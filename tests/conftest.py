# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Offline by default: a test that reached for the Hub would hang where there is none."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests run in several processes: one thread each, or they fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
