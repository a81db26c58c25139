"""All figures of a report, in the order in which it shows them."""

from prunebench.report import anytime, model, runs, sizes
from prunebench.report.figure import Drawn
from prunebench.report.gather import Material


def draw(material: Material) -> tuple[Drawn, ...]:
    """Every kind of figure, each either drawn or with the reason why there is none."""
    return (
        anytime.quality_against_time(material.comparisons),
        runs.quality_against_time(material.runs),
        runs.loss_against_time(material.runs),
        runs.accuracy_against_density(material.runs),
        sizes.gap_against_size(material.comparisons),
        anytime.performance_profile(material.comparisons),
        model.steps(material.runs),
        model.answers(material.comparisons),
        runs.density_per_layer(material.runs),
        sizes.success_probability(material.comparisons),
        sizes.time_to_solution(material.comparisons),
        sizes.feasibility(material.comparisons),
    )
