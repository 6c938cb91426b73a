"""The command line's parts: Lightning's CLI with run folders, configs by their names, what a `fit` config says."""
