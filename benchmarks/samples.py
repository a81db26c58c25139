"""Which samples: students trained on k of n images, accuracy in %; and calibration sets of chosen samples for pruning.

Every row of the tables of students has the classes' shares, but for MMD not within classes; and `--subsets` subsets
with `--students` initialisations each.
"""

import argparse
import resource
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import prunebench
from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.problem import NetworkProblem, make_problem
from prunebench.meanings.sample_scores import Early, sample_scores
from prunebench.meanings.samples import End, SampleOptions, block_of_features, of_end, sample_block
from runner import Benchmark, Note, Row, cpu_seconds

PARTS = ("digits", "mnist", "size", "calibration")
"""Parts of this benchmark, in the order in which they run."""

DISTIL = 0.9
"""Of the loss of distilled students, the part that is the divergence from the network that knows all images."""

EPOCHS_OF_GRADIENTS = 3
"""Of the network by whose gradients samples are chosen: after its whole training few samples have any."""


@dataclass(frozen=True)
class Task:
    """What students are trained on.

    options : of the problem;  steps, batch, rate : of their training;  counts : how many samples
    leaves_out : rows that would take longer than all others here
    """

    name: str
    options: Mapping[str, Any]
    steps: int
    batch: int
    rate: float
    counts: tuple[int, ...]
    leaves_out: tuple[str, ...] = ()

    def problem(self) -> NetworkProblem:
        """The network and its samples."""
        made = make_problem(self.name, self.options)
        assert isinstance(made, NetworkProblem)
        return made


DIGITS = Task("digits-mlp", {}, 500, 32, 5e-3, (30, 100, 300))
MNIST = Task(
    "mlpnet-mnist", {"weights": "train", "hidden": (100,)}, 400, 50, 1e-3, (50,), ("error-uncertainty", "forgetting")
)

BLOCKS: Mapping[str, SampleOptions] = {
    "gradient": SampleOptions(features="gradient", epochs=EPOCHS_OF_GRADIENTS, per_class=True),
    "embedding within classes": SampleOptions(features="embedding", per_class=True),
    "MMD of inputs": SampleOptions(of="inputs", per_class=True),
    "MMD of inputs, not within classes": SampleOptions(of="inputs"),
    "MMD of the embedding": SampleOptions(per_class=True),
    "MMD of the embedding, narrow": SampleOptions(per_class=True, width=0.35),
}
"""Blocks by the name of their row."""

SCORES: tuple[tuple[str, End], ...] = tuple(
    (score, end)
    for score in ("el2n", "prototype", "error-uncertainty", "forgetting")
    for end in (("hard", "easy") if score != "el2n" else ("hard", "middle", "easy"))
)  # fmt: skip

DISTILLED = ("random", "el2n, hard", "MMD of inputs", "MMD of the embedding")
"""Rows whose students are distilled as well."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", default="all", choices=("all", *PARTS))
    parser.add_argument("--counts", type=int, nargs="*", help="of samples, in place of each part's own")
    parser.add_argument("--subsets", type=int, default=5)
    parser.add_argument("--students", type=int, default=5)


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    for name in PARTS:
        if chosen.what in ("all", name):
            yield from MAKERS[name](chosen)


def students_of(
    task: Task, problem: NetworkProblem, masks: list[BoolArray], students: int, distil: float
) -> FloatArray:
    """Accuracies in % of students trained on each subset, float64 (subsets, students)."""
    from prunebench.networks.chosen import prunable_network
    from prunebench.recovery.training.many import reached
    from prunebench.recovery.training.protocol import Begin, Protocol
    from prunebench.recovery.training.starts import place

    network, values = prunable_network(problem), []
    for number in range(students):
        place(problem, network, Begin("fresh", 100 + number))
        values.append(network.weights())
    whole = np.ones((students, network.total), dtype=np.bool_)
    out = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "s.npz"
        for number, mask in enumerate(masks):
            rows_of = np.arange(mask.size, dtype=np.float64)[:, None] / mask.size
            block = block_of_features(rows_of, int(mask.sum()), problem=problem.name)
            block.with_start(mask).save(file)
            protocol = Protocol(
                steps=task.steps, batch_size=min(task.batch, int(mask.sum())), learning_rate=task.rate,
                subset=str(file), distil=distil, seed=number,
            )  # fmt: skip
            out.append(reached(problem, network, whole, protocol, weights=np.array(values)).validation.accuracy)
    return 100.0 * np.array(out)


def subsets_of(
    task: Task, problem: NetworkProblem, keep: int, subsets: int
) -> Iterator[tuple[str, list[BoolArray], dict[str, Any]]]:
    """Rows by name, with a subset for each seed and what is told of them."""
    block = sample_block(problem, keep, SampleOptions(features="embedding", per_class=True))
    rng = np.random.default_rng(keep)
    yield "random", [block.top_mask(rng.random(block.p)) for _ in range(subsets)], {}
    held: dict[str, list[FloatArray]] = {}
    for score, end in (one for one in SCORES if one[0] not in task.leaves_out):
        if score not in held:
            held[score] = [sample_scores(problem, score, early=Early(), seed=1000 * i) for i in range(subsets)]
        yield f"{score}, {end}", [block.top_mask(of_end(values, end)) for values in held[score]], {}
    for name, options in BLOCKS.items():
        masks, fell, seconds = [], [], 0.0
        for seed in range(subsets):
            made = sample_block(problem, keep, options, seed=seed)
            answer, spent = cpu_seconds(partial(prunebench.solve, made, "swap", seed=seed))
            masks.append(answer.mask)
            fell.append(made.random_mean() / answer.objective)
            seconds += spent
        yield name, masks, {"random f / f": float(np.mean(fell)), "CPU s a block": seconds / subsets}


def students(task: Task, chosen: argparse.Namespace) -> Iterator[Row | Note]:
    problem = task.problem()
    yield Note(f"all {len(problem.calibration())} images: {100 * problem.evaluate(problem.model())['accuracy']:.1f} %")
    for keep in chosen.counts or task.counts[: 1 if chosen.quick else None]:
        random: dict[float, float] = {}
        for name, masks, told in subsets_of(task, problem, keep, chosen.subsets):
            for distil in (0.0, DISTIL) if name in DISTILLED else (0.0,):
                found = students_of(task, problem, masks, chosen.students, distil)
                mean = float(found.mean())
                random.setdefault(distil, mean)
                yield Row(f"students on {task.name}", {
                    "k": keep, "subset": name, "distilled": "yes" if distil else "", "accuracy": mean,
                    "± of subsets": float(found.mean(axis=1).std(ddof=1)) if len(masks) > 1 else None,
                    "over random": mean - random[distil], **told,
                })  # fmt: skip


def digits(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    """Students of the digits network's shape."""
    yield from students(DIGITS, chosen)


def mnist(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    """Students with one hidden layer of 100 on MNIST."""
    yield from students(DIGITS if chosen.quick else MNIST, chosen)


def size(chosen: argparse.Namespace) -> Iterator[Row]:
    """Choosing among all 60,000 images of MNIST: time, and the largest memory of the process so far."""
    problem = (DIGITS if chosen.quick else Task("mlpnet-mnist", {}, 0, 1, 1.0, ())).problem()
    for keep in (50,) if chosen.quick else (50, 500):
        for name in ("MMD of the embedding", "gradient"):
            block, made = cpu_seconds(partial(sample_block, problem, keep, BLOCKS[name]))
            answer, solved = cpu_seconds(partial(prunebench.solve, block, "swap"))
            assert block.form.factor is not None
            yield Row("size", {
                "n": block.p, "k": keep, "features": name, "rows": block.form.factor.shape[0],
                "CPU s features": made, "CPU s swap": solved, "random f / f": block.random_mean() / answer.objective,
                "GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            })  # fmt: skip


CALIBRATION: Mapping[str, tuple[str, Mapping[str, Any], float, tuple[int, ...]]] = {
    "digits-mlp": ("one-shot", {"solver": "swap"}, 0.1, (50,)),
    "mlpnet-mnist": ("one-shot", {"solver": "swap"}, 0.1, (100,)),
    "stories-llama": ("layer-wise", {"solver": "sparsegpt"}, 0.5, (16,)),
}
"""By problem: coordinator and options of the pruning, density, and sizes of calibration sets."""


def calibration(chosen: argparse.Namespace) -> Iterator[Row]:
    """Networks pruned by chosen calibration samples against as many at random."""
    names = ("digits-mlp",) if chosen.quick else ("mlpnet-mnist", "stories-llama")
    for name in names:
        coordinator, how, density, counts = CALIBRATION[name]
        problem = make_problem(name)
        assert isinstance(problem, NetworkProblem)
        for keep in counts:
            for kind in ("random", *(CHOICES if name != "stories-llama" else CHOICES[:1])):
                found = [
                    _pruned(problem, kind, keep, coordinator, how, density, seed) for seed in range(chosen.subsets)
                ]
                losses = np.array([one["loss"] for one in found])
                measure = "perplexity" if "perplexity" in found[0] else "accuracy"
                values = np.array([one[measure] for one in found])
                yield Row("calibration", {
                    "problem": name, "coordinator": coordinator, "density": density, "k": keep, "samples": kind,
                    measure: float(values.mean()), "±": float(values.std(ddof=1)) if len(found) > 1 else None,
                    "loss": float(losses.mean()),
                })  # fmt: skip


CHOICES = ("MMD of the embedding, no classes", "MMD of the embedding", "gradient", "el2n, hard")
"""Calibration sets beside random ones; the first needs no classes."""


def _pruned(
    problem: NetworkProblem, kind: str, keep: int, coordinator: str, how: Mapping[str, Any], density: float, seed: int
) -> Mapping[str, Any]:
    options = BLOCKS.get(kind, SampleOptions())
    block = sample_block(problem, keep, options, seed=seed)
    if kind == "el2n, hard":
        block = block.with_start(block.top_mask(sample_scores(problem, "el2n", seed=1000 * seed)))
    elif kind != "random":
        block = block.with_start(prunebench.solve(block, "swap", seed=seed).mask)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "s.npz"
        block.save(file)
        done = prunebench.prune(
            problem, density=density, coordinator=coordinator, subset=file, samples=keep, progress=False, **how
        )
    return done.result


MAKERS: Mapping[str, Callable[[argparse.Namespace], Iterator[Row | Note]]] = {
    "digits": digits, "mnist": mnist, "size": size, "calibration": calibration,
}  # fmt: skip
"""What makes the rows of every part."""

BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"subsets": 2, "students": 2})

if __name__ == "__main__":
    BENCHMARK.main()
