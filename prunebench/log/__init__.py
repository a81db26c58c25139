"""The run directory: what was asked, what happened, and what is needed to go on."""
