"""What of many networks can be pruned as a whole: families found, checked and refused, architecture by architecture.

    OMP_NUM_THREADS=1 python benchmarks/structures.py language
    OMP_NUM_THREADS=1 python benchmarks/structures.py torchvision [--part 1/4] [--heaviest 70000000]

Networks have random weights and the smallest inputs they take. A family is checked if it is of a usual kind (channels,
neurons, heads) and no operation crosses it: a random quarter of its groups is removed, and the smaller network must
give what zeros in their place give. Counted are networks with at least one sound family, those with none, and those
whose structure cannot be found, with the reason. Needs transformers or torchvision; nothing is downloaded.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

import architectures
import vision_networks as vision
from prunebench.core.errors import InvalidInput
from prunebench.networks.torchvision_build import make_importable
from prunebench.quiet import quiet
from prunebench.structure.check import check
from prunebench.structure.families import USUAL, families
from prunebench.structure.trace import couple
from runner import Benchmark, Note, Row

TOKENS, LENGTH = 60, 12
"""Token numbers of the example are below this, and so long are its rows: all vocabularies here are larger."""

Made = Callable[[], tuple[torch.nn.Module, Any]]
"""Makes a network and inputs of three samples."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("language", "torchvision"), nargs="?", default="language")
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="these only")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="the K-th of N parts (default: all)")
    parser.add_argument("--heaviest", type=int, default=70_000_000, metavar="N", help="networks of more weights are "
                        "named and left out")  # fmt: skip


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    make_importable()
    number, _, parts = chosen.part.partition("/")
    counts: Counter[str] = Counter()
    for name, make in list(_networks(chosen))[int(number) - 1 :: int(parts)]:
        facts = found(make, chosen.heaviest)
        counts[facts["outcome"]] += 1
        yield Row(chosen.kind, {"network": name, **facts})
    yield Note(", ".join(f"{outcome}: {count}" for outcome, count in counts.most_common()))


def _networks(chosen: argparse.Namespace) -> Iterator[tuple[str, Made]]:
    if chosen.kind == "language":
        import transformers

        configs = architectures.language_configs(transformers)
        for name in chosen.networks or configs:
            yield name, partial(_language, transformers, name, configs[name])
        return
    for name in chosen.networks or vision.names("torchvision"):
        yield name, partial(_vision, name)


def _language(library: Any, name: str, config: Callable[[], Any]) -> tuple[torch.nn.Module, Any]:
    model = architectures.language_model(library, name, config()).eval()
    return model, torch.randint(3, TOKENS, (3, LENGTH))


def _vision(name: str) -> tuple[torch.nn.Module, Any]:
    held = vision.given("torchvision", name)
    if held.forward is not None:
        raise vision.DoesNotRun("its inputs are several tensors, or its outputs no scores of classes")
    inputs = held.inputs
    for module in held.model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0.0, 0.1)
    return held.model, torch.cat([inputs, inputs[:1]])


def found(make: Made, heaviest: int) -> dict[str, Any]:
    """What is found of one network."""
    start = time.process_time()
    empty = {"families": 0, "checked": 0, "sound": 0, "kinds": "", "reason": "", "operations without a rule": ""}
    try:
        with quiet():
            model, example = make()
            if sum(item.numel() for item in model.parameters()) > heaviest:
                return {"outcome": "too heavy", **empty, "CPU s": 0.0}
            coupling = couple(model, example)
            every, _ = families(coupling)
            usual = [family for family in every if family.kind in USUAL and not family.crossed_by]
            checked = check(coupling, usual)
    except vision.DoesNotRun as error:
        return {"outcome": "not run", **empty, "reason": str(error), "CPU s": time.process_time() - start}
    except InvalidInput as error:
        return {"outcome": "refused", **empty, "reason": str(error)[:200], "CPU s": time.process_time() - start}
    kinds = Counter(family.kind for family in every)
    sound = [result for result in checked if not result.reason]
    return {
        "outcome": "can be pruned" if sound else "nothing to prune", "families": len(every), "checked": len(checked),
        "sound": len(sound), "kinds": ", ".join(f"{kind} {count}" for kind, count in kinds.items()),
        "reason": next((result.reason[:120] for result in checked if result.reason), ""),
        "operations without a rule": ", ".join(coupling.walk.unknown), "CPU s": time.process_time() - start,
    }  # fmt: skip


BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"networks": ["gpt2"]})

if __name__ == "__main__":
    BENCHMARK.main()
