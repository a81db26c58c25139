"""ResNet20 on CIFAR-10: multi-stage pruning, accuracy against density; one run passes through every density.

Needs the data under $PRUNEBENCH_DATA. A stage takes single-sample gradients (`--samples`), ranks the
weights by what removing one costs once the rest of its row has made up for it, and refits every layer
to its dense outputs on `--images` training images, which takes no gradients. Nothing is fine-tuned, and
nothing is chosen by test images: a part of the training images is held out.

Recalled of CHITA++ (91.36 % dense, all 10,000 test images): the column of that name; it makes 15 stages of
1,000 gradients for each density. The column `gradients` says how many a row here has used since the
dense network. On the subset's 1,017 test images the standard error is 0.9, so differences to dense on
the same images are printed as well.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/resnet20.py --seeds 3
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prunebench.runs.prune import PruneRequest, prune, resume
from runner import Benchmark, Note, Row, spread

PROBLEM = "resnet20-cifar10"
DENSE = 91.36
RECALLED = {0.7: 91.25, 0.6: 91.20, 0.5: 91.04, 0.4: 90.78, 0.3: 90.38, 0.2: 88.72, 0.1: 79.32}
STAGES = (0.7, 0.6, 0.5, 0.4, 0.35, 0.3, 0.26, 0.23, 0.2, 0.17, 0.15, 0.135, 0.12, 0.11, 0.1)
SAMPLES = 300
"""Gradients of a stage."""
IMAGES = 500
"""Training images on which layers are refitted."""


def staged(densities: Sequence[float], samples: int = SAMPLES, images: int = IMAGES) -> dict[str, Any]:
    """The fields of a request for a run through some densities, beside problem, density and seed."""
    return {
        "solver": "obd",
        "mode": "refit",
        "coordinator": "multi-stage",
        "coordinator_options": {
            "densities": tuple(densities),
            "samples": samples,
            "batch_size": 1,
            "ridges": (1.0,),
            "gradient_scales": (0.0,),
            "held_out": 600,
        },
        "recover": (f"layers:samples={images}",),
    }


def run(seed: int, out: Path, samples: int, images: int) -> tuple[float, dict[float, float]]:
    """Dense accuracy and that at every stage's density, in per cent."""
    request = PruneRequest(problem=PROBLEM, density=STAGES[-1], seed=seed, **staged(STAGES, samples, images))
    result = resume(out, say=_say) if (out / "run.json").is_file() else prune(request, out=out, say=_say)
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    last = {event["stage"]: 100.0 * event["validation"]["accuracy"] for event in events}
    found = {part: last[number] for number, part in enumerate(STAGES, start=1)}
    return 100.0 * result["dense_accuracy"], found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="gradients of a stage")
    parser.add_argument("--images", type=int, default=IMAGES, help="on which layers are refitted")
    parser.add_argument("--out", type=Path, help="folder in which runs are kept and resumed")


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    wall, cpu = time.perf_counter(), time.process_time()
    found: dict[float, list[float]] = {part: [] for part in STAGES}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(chosen.first_seed, chosen.first_seed + chosen.seeds):
            dense, accuracies = run(seed, (chosen.out or Path(folder)) / str(seed), chosen.samples, chosen.images)
            for part, accuracy in accuracies.items():
                found[part].append(accuracy)
            yield Note(f"seed {seed}: " + ", ".join(f"{k:g} {v:.2f}" for k, v in accuracies.items()))
    minutes = [
        (now - then) / 60.0 / chosen.seeds for now, then in ((time.perf_counter(), wall), (time.process_time(), cpu))
    ]
    yield Note(f"{minutes[0]:.1f} minutes a run by the clock, {minutes[1]:.1f} of CPU, all densities")
    for stage, (part, held) in enumerate(found.items(), start=1):
        if part in RECALLED:
            mean, deviation = spread(held)
            yield Row(f"dense {dense:.2f} %", {
                "density": part, "gradients": stage * chosen.samples, "mean": mean, "std": deviation,
                "to dense": mean - dense, "CHITA++": RECALLED[part], "to its dense": RECALLED[part] - DENSE,
            })  # fmt: skip


QUICK = {"seeds": 1, "samples": 50, "images": 100}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK, out="--results")

if __name__ == "__main__":
    BENCHMARK.main()
