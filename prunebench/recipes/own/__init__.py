"""The recipes that come with prunebench, one TOML file each."""
