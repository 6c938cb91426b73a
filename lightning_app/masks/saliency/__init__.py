"""Where a recogniser looks: excitation backprop, explainers, and the critical template made of their maps."""
