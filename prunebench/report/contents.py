"""All figures of a report, in the order in which it shows them."""

from prunebench.report import anytime, model, rounds, runs, sizes, studies, verdict
from prunebench.report.figure import Drawn, Figure
from prunebench.report.gather import Material


def draw(material: Material) -> tuple[Drawn, ...]:
    """Every kind of figure, each either drawn or with the reason why there is none."""
    drawn = (
        verdict.ranking(material.comparisons),
        anytime.quality_against_time(material.comparisons),
        runs.quality_against_time(material.runs),
        runs.loss_against_time(material.runs),
        runs.accuracy_against_density(material.runs),
        sizes.gap_against_size(material.comparisons),
        anytime.performance_profile(material.comparisons),
        model.steps(material.runs),
        model.answers(material.comparisons),
        runs.density_per_layer(material.runs),
        rounds.pq_index(material.runs),
        sizes.success_probability(material.comparisons),
        sizes.time_to_solution(material.comparisons),
        sizes.feasibility(material.comparisons),
    )
    return tuple(kind for kind in drawn if kind is not None)


def only_studies(material: Material) -> bool:
    """Whether there is neither a run nor a comparison, so that nothing needs to be said of what they lack."""
    return bool(material.studies) and not material.comparisons and not material.runs


def of_studies(material: Material) -> list[tuple[Figure, ...]]:
    """The figures of every study."""
    return [studies.figures(study, f"study-{number}-") for number, study in enumerate(material.studies)]


def every_figure(material: Material) -> list[Figure]:
    """All figures that the material fills."""
    drawn = () if only_studies(material) else draw(material)
    return [figure for kind in drawn for figure in kind.figures] + [f for held in of_studies(material) for f in held]
