"""One file a command: add_arguments(parser), run(arguments) -> result, text(result) -> what a person reads."""
