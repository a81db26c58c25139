"""Measure how long a network takes with fewer groups: the table of a latency budget, and the networks chosen by it."""

import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem
from prunebench.log.machine import machine
from prunebench.log.run_directory import RunDirectory
from prunebench.runs.timing import RUNS, batch_of, limited_threads, medians, onnx_bytes, package, session
from prunebench.structure.found import Found
from prunebench.structure.latency import LatencyTable, Measured, Runtime, widths
from prunebench.structure.module import difference
from prunebench.structure.resize import Living, shrunk_program, shrunk_state, state_of
from prunebench.structure.trace import export

LATENCY_FILE = "latency.json"
"""Where a run directory has its table of measured times."""

LONGEST = 0.6
"""Seconds that the runs of one network may take together, RUNS or FEWEST of them: tables of large networks are of
fewer runs."""

FEWEST = 5
"""Runs of a network at least."""

FINAL = 2 * RUNS
"""Runs of networks that are chosen: their times are the result."""

SAME = 1e-3
"""By how much outputs of an ONNX model may differ from torch's, relative to the largest, for its time to count: more
than rounding in another order, and far less than a wrong index."""

Say = Callable[[str], None]


def facts_of(runtime: Runtime, batch: int) -> dict[str, Any]:
    """Where and how times are measured: tables of other facts do not fit.

    Raises
    ------
    MissingPackage   onnxruntime is not installed
    """
    library = torch if runtime == "torch" else package("onnxruntime")
    held = machine()
    return {
        "runtime": runtime, "version": str(library.__version__), "threads": 1, "batch": batch,
        "processor": held["processor"], "machine": platform.node(),
    }  # fmt: skip


class Stopwatch:
    """Runs a network's smaller forms beside the dense one.

    Which groups of a family are gone makes no difference to its time, so the last ones are.
    """

    def __init__(self, found: Found, inputs: Any, runtime: Runtime) -> None:
        if next(found.coupling.program.parameters()).device.type != "cpu":
            raise InvalidInput("a latency is that of the processor, and the network is on another device; move it")
        self._found, self._inputs, self._runtime = found, inputs, runtime
        self._state = state_of(found.coupling)
        self._sizes = [family.size for family in found.families]
        self._model: Any = None
        with limited_threads(1):
            self._dense = self._call(self._sizes)

    def measure(self, counts: Sequence[int], runs: int = FINAL) -> Measured:
        """Median milliseconds of one thread, of the dense network and of that with these counts, run in turns."""
        with limited_threads(1):
            call = self._call(counts)
            (first,) = medians([self._dense], 1)
            fitting = int(1000.0 * LONGEST * runs / RUNS / max(first, 1e-3))
            times = medians([self._dense, call], max(FEWEST, min(runs, fitting)))
        return Measured(tuple(counts), times[0], times[1])

    def beside_dense(self, program: Any) -> Measured:
        """Median milliseconds of the dense network, and of a smaller one as it is exported, run in turns."""
        with limited_threads(1):
            call = _inference(program, self._inputs) if self._runtime == "torch" else self._exported(program)
            times = medians([self._dense, call], FINAL)
        return Measured((), times[0], times[1])

    def table(self, facts: dict[str, Any], say: Say) -> LatencyTable:
        """Times of every family at some counts, the others whole."""
        families = self._found.families
        points = sum(len(widths(family)) for family in families)
        say(f"latency: {points} networks are timed in {facts['runtime']}, batch {facts['batch']}, one thread")
        dense: list[float] = []
        parts: dict[str, dict[int, float]] = {}
        for number, family in enumerate(families):
            held = parts[family.label] = {}
            for count in widths(family):
                found = self.measure(self._with(number, count), RUNS)
                dense.append(found.dense_ms)
                held[count] = found.part
        whole = float(np.median(dense))
        curves = {label: {count: part * whole for count, part in held.items()} for label, held in parts.items()}
        return LatencyTable(facts, {family.label: family.size for family in families}, whole, curves)

    def _with(self, number: int, count: int) -> list[int]:
        return [count if k == number else size for k, size in enumerate(self._sizes)]

    def _living(self, counts: Sequence[int]) -> Living:
        kept = [np.arange(family.size) < count for family, count in zip(self._found.families, counts, strict=True)]
        return Living(self._found.coupling, self._found.families, kept)

    def _call(self, counts: Sequence[int]) -> Callable[[], Any]:
        living = self._living(counts)
        program = shrunk_program(self._found.coupling, self._state, living, share=True)
        if self._runtime == "torch":
            return _inference(program, self._inputs)
        if self._model is None:
            self._model = onnx_bytes(export(program, self._inputs))
        return self._resized(program, living) or self._exported(program)

    def _exported(self, program: Any) -> Callable[[], Any]:
        held, given = session(onnx_bytes(export(program, self._inputs)), self._inputs, 1)
        return lambda: held.run(None, given)

    def _resized(self, program: Any, living: Living) -> Callable[[], Any] | None:
        """The dense ONNX model with smaller tensors, which takes a hundredth of an export's time; None where that is
        not the same network: where branches are gone, or sizes stand in the graph."""
        import onnx

        if living.gone:
            return None
        model = onnx.ModelProto.FromString(self._model)
        # shapes inside the graph are found again from the tensors
        del model.graph.value_info[:]
        cut = shrunk_state(self._found.coupling, self._state, living)
        for tensor in model.graph.initializer:
            self._cut(onnx, model, tensor, cut, living)
        try:
            held, given = session(model.SerializeToString(), self._inputs, 1)
            answers = [torch.from_numpy(np.asarray(item)) for item in held.run(None, given)]
        except Exception:  # onnxruntime refuses sizes that do not fit in many ways
            return None
        with torch.inference_mode():
            expected = [
                leaf
                for leaf in torch.utils._pytree.tree_leaves(program(self._inputs))
                if isinstance(leaf, torch.Tensor)
            ]
        if len(expected) != len(answers) or not difference(expected, answers) <= SAME:
            return None
        return lambda: held.run(None, given)

    def _cut(self, onnx: Any, model: Any, tensor: Any, cut: dict[str, torch.Tensor], living: Living) -> None:
        """Cut one tensor of an ONNX model: a parameter, or the bias that a norm became beside a layer's weight."""
        parameters = self._found.coupling.parameters
        dims = parameters.get(tensor.name)
        if dims is None:
            owner = next((node.input[1] for node in model.graph.node
                          if node.op_type in ("Conv", "Gemm") and tensor.name in node.input[2:]), "")  # fmt: skip
            dims = parameters[owner][:1] if owner in parameters else None
        if dims is None or [len(labels) for labels in dims] != list(tensor.dims):
            return
        if not any(living.touches(labels) for labels in dims):
            return
        values = onnx.numpy_helper.to_array(tensor)
        for axis, labels in enumerate(dims):
            values = values.take(living.positions(labels).numpy(), axis=axis)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


def _inference(program: Any, inputs: Any) -> Callable[[], Any]:
    def call() -> Any:
        with torch.inference_mode():
            return program(inputs)

    return call


class Times:
    """The table of a run, and what measures what it has not: it is in the run directory, and a resumed run reads it.

    table : of measured times
    """

    def __init__(self, found: Found, problem: NetworkProblem, run: RunDirectory, options: Any, say: Say) -> None:
        facts = facts_of(options.runtime, options.latency_batch)
        self._path, self._run = run.path / LATENCY_FILE, run
        self._found, self._options, self._problem, self._say = found, options, problem, say
        self._watch: Stopwatch | None = None
        given = self._path if self._path.is_file() else Path(options.latency_table) if options.latency_table else None
        if given is not None:
            self.table = LatencyTable.read(given)
            self.table.require(facts, found.families, str(given))
            self.table = self.table.of(found.families)
        else:
            self.table = self._stopwatch().table(facts, say)
        self._write()

    def measure(self, counts: Sequence[int]) -> Measured:
        """The time of a network with these counts, beside the dense one."""
        held = self._stopwatch().measure(counts)
        self._say(f"latency: {held.ms:.3f} ms of {held.dense_ms:.3f} ms, {held.part:.4f} of the time")
        return held

    def keep(self) -> None:
        """Write the table with all networks that were measured."""
        self._write()

    def final(self, program: Any) -> Measured:
        """The time of the smaller network itself, as it is exported, beside the dense one."""
        return self._stopwatch().beside_dense(program)

    def _stopwatch(self) -> Stopwatch:
        if self._watch is None:
            inputs = batch_of(self._problem, self._options.latency_batch)
            self._watch = Stopwatch(self._found, inputs, self._options.runtime)
        return self._watch

    def _write(self) -> None:
        with self._run.writes(LATENCY_FILE):
            self.table.write(self._path)
