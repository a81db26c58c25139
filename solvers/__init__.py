"""The solvers that come with prunebench; each file registers one."""

if __name__ != "prunebench.solvers":
    raise ImportError(f"import this package as prunebench.solvers, not as {__name__}: the short name is never taken")
