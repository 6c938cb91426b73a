"""Subcommands that need no model: each module has `run(args)`, called by the command line."""
