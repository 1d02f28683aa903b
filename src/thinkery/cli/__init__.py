"""The command line: one file per verb, each of which calls public functions of the package."""
