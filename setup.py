# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Package description. `modeling/` is installed as `hf_tc.modeling`; the same files go to the Hub with a student."""

import re
import runpy
from pathlib import Path

from setuptools import find_packages, setup

RELEASES = runpy.run_path(str(Path(__file__).with_name("modeling") / "supported_versions.py"))


def package_page() -> str:
    """The README for package indexes, which know no other file of the repository: its links and picture left out."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*", "", text)
    return re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)


DATA = ["datasets>=5.0"]  # earlier ones may hang at exit after part of a parquet stream (huggingface/datasets#7467)
EVALUATION = ["lm-eval>=0.4.13"]
# requests: the command line of Transformers imported it without asking for it until some version after 5.15.
SERVING = ["fastapi", "uvicorn", "openai", "pydantic", "requests"]
VLLM = ["vllm>=0.32,<0.33"]  # hf_tc.vllm_plugin refuses others, whose recurrent states may be laid out otherwise
TRL = ["trl>=1.16", *DATA]  # of .docs/pages/trl.md; hf_tc takes its kernels where it is installed
LINT = ["ruff>=0.9", "mypy>=1.14"]
DOCS = ["mkdocs>=1.6", "mkdocstrings[python]>=1.0", "pygments>=2.17"]
TEST = [
    "bitsandbytes>=0.49; sys_platform == 'linux'",
    "ipykernel>=6.29",
    "nbclient>=0.10",
    "optimum-quanto>=0.2.7",
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "parameterized",
    "torchao>=0.15; sys_platform == 'linux'",
    *DATA,
    *LINT,
]

setup(
    name="hf_tc",
    version=RELEASES["HF_TC_VERSION"],
    description="Turn any pretrained Transformer language model into a hybrid with Gated DeltaNet layers",
    long_description=package_page(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    author="The hf_tc authors",
    url="https://arxiv.org/abs/2606.16429",
    project_urls={"Paper": "https://arxiv.org/abs/2606.16429"},
    keywords=["transformers", "gated-deltanet", "linear-attention", "distillation", "hybrid"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=[*find_packages(include=["hf_tc", "hf_tc.*"]), "hf_tc.model_cards", "hf_tc.modeling"],
    package_dir={"hf_tc.modeling": "modeling", "hf_tc.model_cards": "model_cards"},
    package_data={
        "hf_tc": ["py.typed"],
        "hf_tc.assets": ["*.md", "*.txt", "tiny_teacher/*"],
        "hf_tc.model_cards": ["template.md", "report.md"],
    },
    install_requires=[
        # Bounded to what is tested: a newer torch would also bring another set of CUDA libraries.
        "torch>=2.7,<2.15",
        f"transformers{RELEASES['transformers_bounds']()}",  # how to raise it: .github/CONTRIBUTING.md
        "accelerate>=1.1",
        "peft>=0.18",
        "huggingface_hub>=1.3",
        "flash-linear-attention>=0.5",
        "safetensors>=0.4",
        "jinja2>=3.1",
        "numpy>=1.26",
        "packaging>=23",
        "psutil>=5.9",
        "pyyaml>=6",
        "matplotlib>=3.8",
        "rich>=13",
        "tqdm>=4.66",
    ],
    extras_require={
        "data": DATA,
        "docs": DOCS,
        "eval": EVALUATION,
        "serve": SERVING,
        "test": TEST,
        "trl": TRL,
        "vllm": VLLM,
    },
    entry_points={
        "console_scripts": ["hf-tc = hf_tc.cli.main:main"],
        "vllm.general_plugins": ["hf_tc = hf_tc.vllm_plugin.plugin:register"],
    },
)
