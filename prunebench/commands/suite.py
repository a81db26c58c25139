"""The prunebench suite: block problems that anyone has without data; who solves them how well, in files to be compared.

'suite list' tells what there is, 'suite run' solves it with one solver, 'suite check' evaluates the masks of a file of
results, 'suite table' ranks several files. 'suite get' writes an instance as a block file, 'suite export' writes files
of results in QOBLIB's submission format.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.commands import tables
from prunebench.core.solution_file import finite
from prunebench.suite import catalogue, check, instances, results, table, words
from prunebench.suite.run import Limit
from prunebench.suite.run import run as run_suite

MODES = ("select", "refit")
"""Modes of instances; groups are refit."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser for each of the suite's own commands."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    for name, (add, _, what) in PARTS.items():
        add(parts.add_parser(name, help=what, description=what[:1].upper() + what[1:] + "."))


def _add_chosen(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--instance", nargs="+", default=(), metavar="NAME", help="these instances; default: all")
    parser.add_argument("--mode", choices=MODES, action="append", help="only instances of this mode")
    parser.add_argument("--largest", type=shared.positive_int, metavar="P", help="only instances of at most P weights")


def _add_list(parser: argparse.ArgumentParser) -> None:
    _add_chosen(parser)
    parser.add_argument("--open", action="store_true", help="only instances without a proof of their best value")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--solver", required=True, metavar="NAME[:OPTION=VALUE,…]",
        help="a registered solver, or your own, or a dimod sampler, as module:Object or FILE.py:Object",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, default=Path("suite.json"), metavar="FILE",
                        help="the file of results; one of the same run is continued (default: suite.json)")  # fmt: skip
    limits = parser.add_mutually_exclusive_group()
    limits.add_argument("--time-limit", type=shared.seconds, metavar="SEC", help="wall-clock seconds of a solve (5)")
    limits.add_argument("--cpu", type=shared.seconds, metavar="SEC",
                        help="processor seconds of a solve instead: other work on the machine counts less")  # fmt: skip
    parser.add_argument("--seeds", type=shared.positive_int, default=1, metavar="N",
                        help="runs of each instance by a stochastic solver (default: 1)")  # fmt: skip
    _add_chosen(parser)
    parser.add_argument("--submitter", default="", metavar="NAME", help="who sends the file")
    parser.add_argument("--note", default="", metavar="TEXT", help="what readers should know of the run")


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, nargs="+", metavar="FILE", help="files of results")


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, nargs="*", metavar="FILE",
                        help="files of results; none: the catalogue itself, its masks and its proofs")  # fmt: skip


def _add_table(parser: argparse.ArgumentParser) -> None:
    _add_files(parser)
    parser.add_argument("--markdown", action="store_true", help="as Markdown")


def _add_get(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("instance", metavar="NAME", help="an instance")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.npz", help="the block file to write")


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_files(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--submitter", required=True, metavar="NAME", help="who submits")
    parser.add_argument("--affiliation", required=True, metavar="TEXT", help="of the submitter")
    parser.add_argument("--reference", default="", metavar="TEXT", help="paper or repository with further information")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the part that is asked for."""
    return {"part": arguments.part, **PARTS[arguments.part][1](arguments)}


def _chosen(arguments: argparse.Namespace) -> list[catalogue.Instance]:
    return catalogue.chosen(arguments.instance, modes=arguments.mode or (), largest=arguments.largest)


def _list(arguments: argparse.Namespace) -> dict[str, Any]:
    held = catalogue.catalogue()
    chosen = [item for item in _chosen(arguments) if not (arguments.open and item.proved)]
    rows = [
        {
            **{name: getattr(item, name) for name in FACTS},
            "proved": item.proved,
            "gap": None if item.gap is None else finite(item.gap),
        }
        for item in chosen
    ]
    return {"version": held.version, "digest": held.digest, "origins": dict(held.origins), "instances": rows}


FACTS = (
    "name", "mode", "kind", "p", "n", "keep", "origin", "about", "hash", "scale", "best", "best_from", "bound",
    "bound_from", "proof",
)  # fmt: skip
"""What `list` tells of an instance, beside whether it is proved and what is open."""


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    limit = Limit(seconds=5.0)
    if arguments.cpu is not None:
        limit = Limit(seconds=arguments.cpu, cpu=True)
    elif arguments.time_limit is not None:
        limit = Limit(seconds=arguments.time_limit)
    shared.require_folder(arguments.output)
    held = run_suite(
        arguments.solver, _chosen(arguments), arguments.output, limit=limit, seeds=arguments.seeds,
        say=shared.teller(arguments), told=(arguments.submitter, arguments.note),
    )  # fmt: skip
    refused = [row for row in held.rows if not row.solved and not row.failed]
    return {
        "file": str(arguments.output),
        "solver": held.label,
        "rows": len(held.rows),
        "answers": sum(row.solved for row in held.rows),
        "refused": len(refused),
        "reasons": sorted({row.skipped for row in refused}),
        "failed_solves": sum(row.failed for row in held.rows),
    }


def _check(arguments: argparse.Namespace) -> dict[str, Any]:
    if not arguments.file:
        return _check_catalogue(shared.teller(arguments))
    found = []
    for file in arguments.file:
        held = results.read(file)
        seen = check.check_results(held, catalogue.catalogue())
        found.append({
            "file": str(file), "solver": held.label, "rows": len(held.rows), "answers": seen.answers,
            "faults": list(seen.faults), "better": dict(seen.better), "proved": list(seen.proved),
        })  # fmt: skip
    good = all(not item["faults"] for item in found)
    return {"verdict": "verified" if good else "not verified", "files": found}


def _check_catalogue(say: Callable[[str], None]) -> dict[str, Any]:
    faults, proofs, count = [], 0, 0
    for item, wrong, told in check.check_catalogue(catalogue.catalogue().instances):
        say(f"{item.name}: {told}{' FAULT' if wrong else ''}")
        faults += [f"{item.name}: {text}" for text in wrong]
        proofs += told != "mask"
        count += 1
    return {
        "verdict": "not verified" if faults else "verified", "instances": count, "proofs": proofs, "faults": faults,
    }  # fmt: skip


def _board(files: Sequence[Path]) -> table.Board:
    return table.board([results.read(file) for file in files], catalogue.catalogue())


def _table(arguments: argparse.Namespace) -> dict[str, Any]:
    held = _board(arguments.file)
    parts = {}
    for mode in table.MODES:
        if chosen := held.part(mode):
            parts[mode] = {"solvers": words.main_table(held, chosen), "sizes": words.size_table(held, mode)}
    return {"limit": held.limit, "clock": held.clock, "markdown": arguments.markdown, "tables": parts}


def _get(arguments: argparse.Namespace) -> dict[str, Any]:
    shared.require_folder(arguments.output)
    item = catalogue.catalogue().get(arguments.instance)
    instances.load(item).save(arguments.output)
    return {"file": str(arguments.output), "instance": item.name, "hash": item.hash}


def _export(arguments: argparse.Namespace) -> dict[str, Any]:
    from prunebench.suite.qoblib import export

    folders = export(
        [results.read(file) for file in arguments.file], arguments.output, submitter=arguments.submitter,
        affiliation=arguments.affiliation, reference=arguments.reference,
    )  # fmt: skip
    return {"folder": str(arguments.output), "written": [str(folder) for folder in folders]}


Part = tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], dict[str, Any]], str]

PARTS: dict[str, Part] = {
    "list": (_add_list, _list, "list the instances with what is known of each"),
    "run": (_add_run, _run, "solve the instances with one solver; a run that was stopped goes on"),
    "check": (_add_check, _check, "evaluate every mask of files of results, or of the catalogue with its proofs"),
    "table": (_add_table, _table, "rank the solvers of files of results, by size and time"),
    "get": (_add_get, _get, "write an instance as a block file"),
    "export": (_add_export, _export, "write files of results in QOBLIB's submission format"),
}
"""The suite's own commands: arguments, work, and what each does."""


def text(result: dict[str, Any]) -> str:
    """The result of a part for people."""
    return "\n".join(TEXTS[result["part"]](result))


def _list_text(result: dict[str, Any]) -> list[str]:
    rows = [("instance", "p", "n", "keep", "kind", "best", "gap left", "about")]
    for item in result["instances"]:
        left = "proved" if item["proved"] else "no bound" if item["gap"] is None else f"{item['gap']:.1e}"
        rows.append((
            item["name"], str(item["p"]), str(item["n"] or "–"), str(item["keep"]), item["kind"],
            f"{item['best']:.9g}", left, item["about"],
        ))  # fmt: skip
    proved = sum(item["proved"] for item in result["instances"])
    return [
        tables.table(rows[0], rows[1:]),
        "",
        f"{len(result['instances'])} instances, {proved} proved; version {result['version']}, {result['digest'][:12]}…",
        "gap left: (best − bound)/(random mask − bound), 0 is proved",
        *(f"{name}: {what}" for name, what in result["origins"].items()),
    ]


def _run_text(result: dict[str, Any]) -> list[str]:
    return [
        f"{result['solver']}: {result['answers']} answers, {result['refused']} refused, "
        f"{result['failed_solves']} failed",
        *(f"refused: {reason}" for reason in result["reasons"]),
        f"file    {result['file']}",
    ]


def _check_text(result: dict[str, Any]) -> list[str]:
    verdict = {"not verified": "NOT VERIFIED"}.get(result["verdict"], result["verdict"])
    if "files" not in result:
        line = f"{verdict}: {result['instances']} instances, their hashes and best masks, and {result['proofs']} proofs"
        return [line, *(f"fault: {fault}" for fault in result["faults"])]
    lines = []
    for item in result["files"]:
        lines.append(f"{item['file']}: {item['solver']}, {item['answers']} masks evaluated of {item['rows']} rows")
        lines += [f"  fault: {fault}" for fault in item["faults"]]
        lines += [f"  better than the best known: {name}, by a gap of {by:.1e}" for name, by in item["better"].items()]
        if item["proved"]:
            lines.append(f"  says to have proved, which is not checked here: {', '.join(item['proved'])}")
    return [*lines, f"{verdict}; times cannot be checked"]


def _table_text(result: dict[str, Any]) -> list[str]:
    lines = []
    for mode, held in result["tables"].items():
        lines.append(f"{'### ' if result['markdown'] else ''}{mode}, {result['limit']:g} s ({result['clock']}) a solve")
        for rows in (held["solvers"], held["sizes"]):
            lines += ["", *([words.markdown(rows)] if result["markdown"] else [tables.table(rows[0], rows[1:])])]
        lines.append("")
    return [*lines, *words.LEGEND]


def _get_text(result: dict[str, Any]) -> list[str]:
    return [f"{result['instance']} ({result['hash'][:12]}…) -> {result['file']}"]


def _export_text(result: dict[str, Any]) -> list[str]:
    return [f"{len(result['written'])} folders in {result['folder']}"]


TEXTS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "list": _list_text,
    "run": _run_text,
    "check": _check_text,
    "table": _table_text,
    "get": _get_text,
    "export": _export_text,
}
"""How each part's result is told."""
