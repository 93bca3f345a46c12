"""What runs the models: the command line of the tools, and the optimiser."""
