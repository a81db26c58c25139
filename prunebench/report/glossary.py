"""The words of a report: the measures' own definitions, and those of pruning runs."""

from collections.abc import Mapping

from prunebench.measures import GLOSSARY as MEASURES

OF_RUNS: Mapping[str, str] = {
    "density": "The part of the prunable weights that is kept; sparsity is 1 − density.",
    "accuracy": "The share of the problem's validation samples that the network classifies correctly; for language "
    "models perplexity, exp(mean loss of a token), takes its place.",
    "seconds of a run": "Wall-clock seconds of gradients, building blocks, solving and accepting. Loading the data and "
    "judging the network for the log are left out.",
    "acceptance loss": "The network's mean loss on calibration samples that are set apart: an answer of iCBS is "
    "applied if it falls.",
    "predicted change": "The change of the loss that the quadratic model of a step gives for what the step proposes.",
    "true change of a step": "The network's own loss with what was proposed minus that before, on the samples that "
    "the figure names.",
    "correlation": "Pearson's r of the two changes over the points drawn.",
}
"""Measures of pruning runs with their definitions; those of comparisons are in prunebench.measures."""

GLOSSARY: Mapping[str, str] = {**MEASURES, **OF_RUNS}
"""Every term that a figure or table links to, with its definition."""


def anchor(term: str) -> str:
    """The term's place on the page."""
    return "term-" + term.replace(" ", "-")
