"""Subcommands beside Lightning's: each module has `run(args)`, called by the command line."""
