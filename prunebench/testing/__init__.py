"""Instance families and the conformance suite, for every solver here and for those of third parties."""
