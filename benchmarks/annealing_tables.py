"""The annealing benchmark's tables, printed from stored runs: comparison, earlier study, time to solution."""

import math
import statistics

import numpy as np

OPTIMUM = 1e-9
"""A gap up to this counts as the optimum: rounding, not quality."""

_SAFE = "neal-safe-own-range"
EARLIER = {
    "neal, safe penalty, own range": (_SAFE, "raw", "3e-1 7e-2 4e-2 6e-2 7e-1 4e-1 2e-1 9e-2 8e-1 6e-1 4e-1"),
    "  + repair + swap descent": (_SAFE, "polished", "0 0 3e-3 6e-4 0 2e-3 9e-3 6e-3 0 6e-3 4e-3"),
    "neal, adaptive, own range": ("neal-own-range", "raw", "0 0 9e-4 1e-4 0 1e-3 9e-3 6e-3 0 2e-3 2e-3"),
    "neal, adaptive, our range, polish": ("neal", "polished", "0 0 3e-4 0 0 0 4e-3 3e-3 0 1e-3 7e-4"),
    "tabu, adaptive": ("tabu", "raw", "- 0 5e-3 6e-3 0 1e-3 1e-2 8e-3 0 6e-3 5e-3"),
    "tabu + polish": ("tabu", "polished", "0 0 2e-3 1e-3 0 1e-3 5e-3 5e-3 0 4e-3 4e-3"),
    "steepest descent + polish": ("steepest-descent", "polished", "0 0 1e-4 0 0 0 7e-3 4e-3 0 2e-3 2e-3"),
    "path integral + polish": ("path-integral", "polished", "0 2e-3 3e-3 1e-3 0 1e-3 1e-2 7e-3 0 5e-3 2e-3"),
    "OpenJij SA + polish": ("openjij-sa", "polished", "0 0 7e-4 1e-3 0 0 7e-3 4e-3 0 2e-3 2e-3"),
    "OpenJij SQA": ("openjij-sqa", "raw", "0 1e-3 1e-2 9e-3 2e-4 1e-2 3e-2 4e-2 3e-3 7e-2 3e-2"),
    "OpenJij SQA + polish": ("openjij-sqa", "polished", "0 0 1e-3 9e-4 0 3e-4 6e-3 4e-3 0 3e-3 2e-3"),
    "multi-start swap descent": ("swap", "polished", "0 0 8e-4 0 0 1e-3 5e-3 4e-3 0 4e-3 3e-3"),
    "swap tabu": (None, "", "0 0 2e-3 0 0 1e-3 2e-3 2e-3 0 3e-3 2e-3"),
    "swap parallel tempering": (None, "", "0 0 1e-4 0 0 0 1e-3 2e-3 3e-6 3e-3 1e-3"),
    "swap annealing": ("anneal", "polished", "0 0 1e-4 0 0 0 4e-4 1e-3 0 0 3e-4"),
}
"""An earlier study's best gaps, one run each after 1, 4 and 15 CPU s, on other blocks of the same families."""

COLUMNS = (
    ("e64 k32", "e", 64, 32, 0),
    ("z64 k12", "z", 64, 12, 0),
    ("z64 k32a", "z", 64, 32, 0),
    ("z64 k32b", "z", 64, 32, 2),
    ("e256", "e", 256, 128, 1),
    ("t256", "t", 256, 128, 1),
    ("z256 k51", "z", 256, 51, 1),
    ("z256k128", "z", 256, 128, 1),
    ("e1024", "e", 1024, 512, 1),
    ("z1024k204", "z", 1024, 204, 1),
    ("z1024k512", "z", 1024, 512, 1),
)

EARLIER_TIMES = (
    ("t, e", "te", (12, 32), "3-22", "2.3-4", "2.2-4", "0.2-1.1"),
    ("z k12", "z", (12,), "127-173", "2.6-23", "2.7-13", "0.2-35"),
    ("z k32", "z", (32,), "470-3000", "160-1700, one not in 6 s", "15-51", "230, two not in 6 s"),
)
"""The same study at p = 64, ms: Gurobi's proof, swap annealing to the optimum and to gap 1e-3, swap descent."""


def best_known(store, block):
    """The least objective of the references and of every stored run of the block."""
    values = [record["polished"] for record in store.all("run") if record["hash"] == block.hash]
    for record in store.all("reference"):
        if record["hash"] == block.hash:
            values += record["found"].values()
    return min(values)


def gap(block, objective, best):
    """Where `objective` lies between the best known (0) and a random mask (1); None for no objective."""
    return None if objective is None else (objective - best) / (block.random_mean() - best)


def shown(value):
    """A gap in six characters."""
    return "     -" if value is None else "     0" if value <= OPTIMUM else f"{value:6.0e}"


def references(store, blocks):
    """What the gaps above p = 64 are measured from."""
    print("\nreferences above p = 64: gap to the best known of each long run; what branch and bound proved")
    for block in blocks:
        best = best_known(store, block)
        for record in store.all("reference"):
            if record["hash"] != block.hash:
                continue
            gaps = {name: shown(gap(block, value, best)).strip() for name, value in record["found"].items()}
            parts = " ".join(f"{name} {value}" for name, value in gaps.items())
            proof = "proved optimal" if record["proved"] else f"bound {gap(block, record['lower_bound'], best):.0e}"
            print(f"{block.problem:17} {proof:16} {parts}")


def comparison(store, size, families, blocks, names, plan):
    """A row per family, keep and contestant, medians over blocks and seeds, and where `anneal` is not the best.

    blocks : of this size;  plan : (block, name) -> its runs
    """
    print(f"\np = {size}; gaps, medians over blocks and seeds, the worst polished one; CPU s")
    print("family keep contestant        feasible    raw repair polish  worst  CPU s  runs")
    lost = groups = 0
    for family in families:
        for keep in sorted({block.keep for block in blocks}):
            group = [b for b in blocks if b.problem.startswith(f"{family}-") and b.keep == keep]
            polished = {}
            for name in names:
                rows = [(block, run) for block in group for run in plan(block, name)]
                if not rows:
                    continue
                stages = [
                    [gap(block, run[stage], best_known(store, block)) for block, run in rows]
                    for stage in ("raw", "repaired", "polished")
                ]
                medians = [None if None in values else statistics.median(values) for values in stages]
                polished[name] = medians[2]
                share = statistics.mean(run["feasible"] for _, run in rows)
                texts = " ".join(shown(value) for value in (*medians, max(stages[2])))
                spent = max(run["cpu"] for _, run in rows)
                print(f"{family:6} {keep:4d} {name:17} {share:8.2f} {texts} {spent:6.2f} {len(rows):5d}")
            groups += 1
            if "anneal" in polished and len(polished) > 1:
                rival = min((value, name) for name, value in polished.items() if name != "anneal")
                if polished["anneal"] > rival[0] + OPTIMUM:
                    lost += 1
                    print(f"       anneal is behind {rival[1]}: {polished['anneal']:.1e} against {rival[0]:.1e}")
    print(f"anneal's median polished gap is above the best other's in {lost} of {groups} groups")


def columns(store, block_of, runs_of):
    """The earlier study's table beside ours: 'earlier/here' in each cell.

    block_of : column -> block;  runs_of : (block, name) -> runs, those of the comparison
    """
    print("\nthe earlier study's columns: its gap / ours (median); its time 1, 4, 15 s at p = 64, 256, 1024")
    spans = [{run["seconds"] for run in runs_of(block_of(column), "anneal")} for column in COLUMNS]
    print("ours:".ljust(34) + " ".join(f"{min(span, default=0.0):7g} s" for span in spans))
    print("row".ljust(34) + " ".join(f"{column[0]:>9}" for column in COLUMNS))
    beaten = []
    for row, (name, stage, numbers) in EARLIER.items():
        cells = []
        for column, earlier in zip(COLUMNS, numbers.split(), strict=True):
            here = "."
            if name is not None:
                block = block_of(column)
                best = best_known(store, block)
                values = [gap(block, run[stage], best) for run in runs_of(block, name)]
                value = None if None in values or not values else statistics.median(values)
                here = shown(value).strip().replace("e-0", "e-")
                if name == "anneal" and value is not None:
                    least = min(_number(other.split()[len(cells)]) for _, _, other in EARLIER.values())
                    beaten.append((column[0], value, least))
            cells.append(f"{earlier}/{here}")
        print(row.ljust(34) + " ".join(f"{cell:>9}" for cell in cells))
    behind = [f"{label} {value:.1e} > {least:g}" for label, value, least in beaten if value > least + OPTIMUM]
    print(
        f"anneal is at or below the best earlier number of the column in {len(beaten) - len(behind)} of {len(beaten)}"
        + (f"; behind: {', '.join(behind)}" if behind else "")
    )


def _number(text):
    return math.inf if text == "-" else float(text)


def time_to_solution(times):
    """min over t of t ln(0.01)/ln(1 - share of runs done by t): restarts until 99 % are sure."""
    ordered = sorted(times)
    shares = (np.arange(len(ordered)) + 0.5) / len(ordered)
    return min(t * max(1.0, math.log(0.01) / math.log(1.0 - s)) for t, s in zip(ordered, shares, strict=True))


def times(blocks, proofs, firsts, cap):
    """p = 64: milliseconds to the proof, to gap 1e-3 and to the optimum, and time to solution at 99 %.

    proofs : block -> reference record;  firsts : (block, name) -> records with `close` and `exact` in seconds
    """
    print(f"\np = 64, ms (CPU), medians, at most {cap:g} s a run; TTS99: until the optimum is found with 99 %")
    print("block            proof   anneal 1e-3  optimum  reached    TTS99   swap 1e-3  optimum  reached    TTS99")
    median = {}
    for block in blocks:
        cells = []
        for name in ("anneal", "swap"):
            records = firsts(block, name)
            close = [record["close"] for record in records]
            exact = [record["exact"] for record in records]
            median[block.problem, name] = statistics.median(close), statistics.median(exact)
            reached = sum(t < math.inf for t in exact)
            cells.append(
                f"{1e3 * median[block.problem, name][0]:10.2f} {1e3 * median[block.problem, name][1]:8.2f} "
                f"{reached:4d}/{len(exact):<3d} {1e3 * time_to_solution(exact):8.1f}"
            )
        print(f"{block.problem:14} {1e3 * proofs(block)['proof_cpu']:7.1f}  {'  '.join(cells)}")
    print("\nthe earlier study's groups at p = 64, ms: its numbers (Gurobi for the proof) / ours, least-most")
    for label, families, keeps, *earlier in EARLIER_TIMES:
        group = [b for b in blocks if b.problem[0] in families and b.keep in keeps]
        ours = [
            [proofs(b)["proof_cpu"] for b in group],
            [median[b.problem, "anneal"][1] for b in group],
            [median[b.problem, "anneal"][0] for b in group],
            [median[b.problem, "swap"][1] for b in group],
        ]
        if group:
            spans = [f"{1e3 * min(now):.3g}-{1e3 * max(now):.3g}" for now in ours]
            texts = [f"{was} / {now}" for was, now in zip(earlier, spans, strict=True)]
            heads = ("proof", "anneal optimum", "anneal 1e-3", "swap optimum")
            print(f"{label:6} " + ";  ".join(f"{head} {text}" for head, text in zip(heads, texts, strict=True)))
    easy = [median[b.problem, "anneal"][1] < 0.005 for b in blocks if b.problem[0] != "z"]
    near = [median[b.problem, "anneal"][0] < 0.1 for b in blocks]
    solved = [median[b.problem, "anneal"][1] < 2.0 for b in blocks]
    print(f"anneal: optimum in under 5 ms on {sum(easy)}/{len(easy)} of the t and e blocks; ", end="")
    print(f"gap 1e-3 within 0.1 s on {sum(near)}/{len(near)}; optimum within 2 s on {sum(solved)}/{len(solved)}")
