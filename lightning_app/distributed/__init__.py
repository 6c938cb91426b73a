"""Several processes and devices: ranks that agree, failures that end all of them, children that end with parents."""
