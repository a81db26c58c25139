"""The problems that come with prunebench; each file registers one."""

if __name__ != "prunebench.problems":
    raise ImportError(f"import this package as prunebench.problems, not as {__name__}: the short name is never taken")
