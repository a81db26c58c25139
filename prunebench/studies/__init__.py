"""Studies of what a mask's objective is worth: populations of masks, trainings, and one answer about them."""

from collections.abc import Mapping

from prunebench.studies.allocation import Allocation
from prunebench.studies.connectivity import Connectivity
from prunebench.studies.oracle import Oracle
from prunebench.studies.plasticity import Plasticity
from prunebench.studies.robustness import Robustness
from prunebench.studies.study import Study

STUDIES: Mapping[str, type[Study]] = {
    kind.name: kind for kind in (Oracle, Allocation, Robustness, Connectivity, Plasticity)
}
"""All studies by name, in the order in which they are listed."""
