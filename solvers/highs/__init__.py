"""Mixed-integer linear programs solved by HiGHS, with a proven bound."""

from prunebench.solvers.highs.solver import HiGHS

__all__ = ["HiGHS"]
